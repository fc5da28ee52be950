import gc
import os
import pathlib
import shutil
import subprocess
import sys
import threading
import time
import zipfile

import numpy as np
import pytest
from PIL import Image

from migan_jax.data import batches as batches_lib
from migan_jax.data import images
from migan_jax.data import sources
import tiny_tfds


def _picture(i, height=24, width=36):
    """u8[height, width, 3] whose left and right half tell i and mirroring."""
    out = np.full((height, width, 3), 40, np.uint8)
    out[:, :width // 2] = i, 255 - i, 90
    return out


def _write(root, names, **size):
    for i, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(_picture(i, **size)).save(path)
    return root


@pytest.fixture
def folder(tmp_path):
    """20 images 00.png .. 19.png; image i has colour (i, 255 - i, 90)."""
    return _write(tmp_path / 'images', [f'{i:02}.png' for i in range(20)])


def _take(batches, count):
    """The first `count` batches, then closes the iterator."""
    out = [next(batches) for _ in range(count)]
    batches.close()
    return out


def _indices(batch):
    """Which pictures a batch holds, from their colours; mirrored ones too."""
    left, right = batch['image'][:, 4, 1], batch['image'][:, 4, -2]
    return [int(a[0] if a[2] > b[2] else b[0]) for a, b in zip(left, right)]


def _mirrored(batch):
    return batch['image'][:, 4, 1, 2] < batch['image'][:, 4, -2, 2]


def _threads():
    return [t for t in threading.enumerate() if t.name.startswith('migan_jax_data')]


# Sources.


def test_folder_is_recursive_sorted_and_ignores_the_rest(tmp_path):
    names = ['b/2.PNG', 'b/10.jpeg', 'a.JPG', 'c/d/e.webp', '.hidden.png', '.x/y.png']
    _write(tmp_path, names)
    (tmp_path / 'notes.txt').write_text('x')
    source = sources.open_source('folder', path=str(tmp_path))
    assert source.names == ['a.JPG', 'b/10.jpeg', 'b/2.PNG', 'c/d/e.webp']
    assert len(source) == 4
    np.testing.assert_array_equal(source.read(2), _picture(0))


def test_folder_follows_links_but_no_loops(tmp_path):
    _write(tmp_path / 'real', ['a.png', 'sub/b.png'])
    _write(tmp_path / 'elsewhere', ['c.png'])
    os.symlink(tmp_path / 'real', tmp_path / 'real/sub/loop')
    os.symlink(tmp_path / 'elsewhere', tmp_path / 'real/link')
    source = sources.open_source('folder', path=str(tmp_path / 'real'))
    assert source.names == ['a.png', 'link/c.png', 'sub/b.png']


def test_nothing_found(tmp_path):
    with pytest.raises(ValueError, match='no such folder'):
        sources.open_source('folder', path=str(tmp_path / 'missing'))
    with pytest.raises(ValueError, match='no images.*no files'):
        sources.open_source('folder', path=str(tmp_path))
    (tmp_path / 'a.mov').write_text('')
    (tmp_path / 'README').write_text('')
    with pytest.raises(ValueError, match=r'\.mov \(1\), no suffix \(1\)'):
        sources.open_source('folder', path=str(tmp_path))
    for kind in 'folder', 'zip':
        with pytest.raises(ValueError, match='path=gs://bucket/a: expected a path on a disk'):
            sources.open_source(kind, path='gs://bucket/a')
    with pytest.raises(ValueError, match="'web'.*folder, zip, tfds, embedded"):
        sources.open_source('web', path=str(tmp_path))


def test_splits(tmp_path):
    names = [f'train/{i:02}.png' for i in range(10)]
    names += ['val/indoor/a.png', 'val/outdoor/b.png', 'trainer/x.png', 'z.png']
    _write(tmp_path, names, height=4, width=4)

    def split(text):
        return sources.open_source('folder', path=str(tmp_path), split=text).names

    everything = sorted(names)
    assert split('') == split('[:]') == everything
    assert split('[:3]') == everything[:3]
    assert split('[3:]') == everything[3:]
    assert split('[-2:]') == everything[-2:]
    assert split('[:100]') == everything
    assert split('train') == split('train/') == names[:10]
    assert split('val/indoor') == ['val/indoor/a.png']
    assert split('train[7:]') == names[7:10]
    assert split('train[10%:50%]') == names[1:5]
    assert split('train[:15%]') + split('train[15%:]') == names[:10]
    for empty in 'test', 'tra', '[14:]', 'train[3:3]':
        with pytest.raises(ValueError, match=r'train \(10\), trainer \(1\), val \(2\)'):
            split(empty)
    for wrong in 'train[3]', 'train[a:]', '[3:', '[1:2:3]', '[:1.5%]':
        with pytest.raises(ValueError, match='cannot read split'):
            split(wrong)


def test_zip_equals_folder_and_is_read_from_threads(tmp_path):
    names = [f'{i % 3}/{i:02}.png' for i in range(40)]
    root = _write(tmp_path / 'images', names)
    with zipfile.ZipFile(tmp_path / 'a.zip', 'w', zipfile.ZIP_DEFLATED) as file:
        file.mkdir('empty')
        for name in reversed(names):
            file.write(root / name, name)
        file.writestr('__MACOSX/0/._00.png', 'x')
        file.writestr('dataset.json', '{}')
    folder = sources.open_source('folder', path=str(root))
    zipped = sources.open_source('zip', path=str(tmp_path / 'a.zip'))
    assert zipped.names == folder.names == sorted(names)
    kwargs = dict(resolution=8, batch_size=3, seed=1, workers=8)
    for a, b in zip(_take(batches_lib.train_batches(folder, **kwargs), 40),
                    _take(batches_lib.train_batches(zipped, **kwargs), 40)):
        np.testing.assert_array_equal(a['image'], b['image'])
    some = sources.open_source('zip', path=str(tmp_path / 'a.zip'), split='1[:2]')
    assert some.names == ['1/01.png', '1/04.png']


def test_bad_zip(tmp_path):
    path = tmp_path / 'a.zip'
    with pytest.raises(ValueError, match=r'zip .*a\.zip: cannot open'):
        sources.open_source('zip', path=str(path))
    path.write_text('no zip')
    with pytest.raises(ValueError, match=r'zip .*a\.zip: cannot open'):
        sources.open_source('zip', path=str(path))
    _write(tmp_path, ['a.png'])
    with zipfile.ZipFile(path, 'w') as file:
        file.write(tmp_path / 'a.png', 'a.png')
        file.writestr('huge.png', bytes(20_000), zipfile.ZIP_DEFLATED)
    content = path.read_bytes()
    path.write_bytes(content.replace(b'IDAT', b'IDAX'))  # Its checksum is wrong now.
    source = sources.open_source('zip', path=str(path), max_pixels=24 * 36)
    with pytest.raises(images.UnreadableImage, match=r'a\.zip:a\.png.*BadZipFile'):
        source.read(0)
    with pytest.raises(images.UnreadableImage, match=r'a\.zip:huge\.png: 20,000 bytes'):
        source.read(1)


def test_embedded_train_and_test_share_no_pixel():
    whole = sources.open_source('embedded')
    train = sources.open_source('embedded', split='train')
    test = sources.open_source('embedded', split='test')
    assert whole.names == train.names == [
        'astronaut', 'chelsea', 'coffee', 'rocket', 'motorcycle_left', 'china',
        'flower']
    assert len(set(test.names)) == len(test) >= 21
    for i, name in enumerate(whole.names):
        photograph, left = whole.read(i), train.read(i)
        height, width = photograph.shape[:2]
        cut = left.shape[1]
        assert 0.69 * width < cut <= 0.7 * width
        np.testing.assert_array_equal(left, photograph[:, :cut])
        tiles = [test.read(j) for j, n in enumerate(test.names)
                 if n.startswith(f'{name}/')]
        assert len(tiles) >= 3
        for j, tile in enumerate(tiles):
            side = width - cut
            top = j * (side // 2)
            np.testing.assert_array_equal(tile, photograph[top:top + side, cut:])
    assert sources.open_source('embedded', split='test[:2]').names == [
        'astronaut/0', 'astronaut/1']
    with pytest.raises(ValueError, match="no split 'val', expected train, test"):
        sources.open_source('embedded', split='val')


def test_embedded_names_the_missing_package(monkeypatch):
    found = sources.importlib.util.find_spec
    monkeypatch.setattr(sources.importlib.util, 'find_spec',
                        lambda name: None if name == 'sklearn' else found(name))
    with pytest.raises(ImportError, match=r"scikit-learn.*'migan_jax\[train\]'"):
        sources.open_source('embedded')


def test_only_tfds_imports_tensorflow_and_nothing_imports_jax(folder):
    code = f'''
import sys
from migan_jax.data import batches as batches_lib
from migan_jax.data import sources
source = sources.open_source('folder', path={str(folder)!r})
next(batches_lib.train_batches(source, resolution=8, batch_size=2, seed=0))
assert not {{'tensorflow', 'tensorflow_datasets', 'jax'}} & set(sys.modules)
'''
    subprocess.run([sys.executable, '-c', code], check=True,
                   cwd=pathlib.Path(__file__).parents[2])


# Training batches.


def test_train_batches_shape_and_epochs(folder):
    source = sources.open_source('folder', path=str(folder))
    batches = _take(batches_lib.train_batches(
        source, resolution=16, batch_size=8, seed=3), 5)
    for batch in batches:
        assert set(batch) == {'image'}
        assert batch['image'].shape == (8, 16, 16, 3)
        assert batch['image'].dtype == np.uint8
    order = [i for batch in batches for i in _indices(batch)]
    # 40 draws are two whole epochs, in two orders.
    assert sorted(order[:20]) == sorted(order[20:]) == list(range(20))
    assert order[:20] != order[20:] and order[:20] != list(range(20))


@pytest.mark.parametrize('crop, augment', [
    *((crop, False) for crop in batches_lib.CROPS), ('random', True)])
def test_resume_equals_uninterrupted(folder, crop, augment):
    def batches(count, start=0, seed=3, **kwargs):
        source = sources.open_source('folder', path=str(folder), **kwargs)
        return _take(batches_lib.train_batches(
            source, resolution=8, batch_size=6, seed=seed, start_batch=start,
            host_index=1, host_count=2, crop=crop, min_crop=0.5, augment=augment), count)

    whole = batches(9)
    for start in 1, 4:
        for a, b in zip(whole[start:], batches(9 - start, start), strict=True):
            np.testing.assert_array_equal(a['image'], b['image'])
    for a, b in zip(whole, batches(9, cache_mb=1), strict=True):
        np.testing.assert_array_equal(a['image'], b['image'])
    assert any((a['image'] != b['image']).any()
               for a, b in zip(whole, batches(9, seed=4)))


def test_resume_reads_nothing_that_it_skips(folder, monkeypatch):
    source = sources.open_source('folder', path=str(folder))
    reads = []
    load = source.load
    monkeypatch.setattr(source, 'load', lambda *a: reads.append(a) or load(*a))
    _take(batches_lib.train_batches(source, resolution=8, batch_size=2, seed=0, workers=1,
                             start_batch=10**9, prefetch=1), 1)
    assert 2 <= len(reads) <= 6


MANY = 1_800_000   # about as many as Places365-Standard has


class _Named(sources._IndexedSource):
    """Names without files; a stub in the place of the decoder counts what it reads."""

    def __init__(self, names):
        super().__init__('names', names, cache_mb=0)
        self.reads = []

    def load(self, record, min_side):
        self.reads.append(record)
        return np.full((2, 2, 3), record % 256, np.uint8)


def test_resume_within_millions_of_names_reads_the_rest_of_the_epoch():
    source = _Named(range(MANY))   # a name is asked for only where one is wrong
    size, host_count = 10_000, 3
    epoch = MANY // (size * host_count)

    def records(start, count):
        hosts = [source.train_records(
            seed=4, start_batch=start, batch_size=size, host_index=host,
            host_count=host_count) for host in range(host_count)]
        return [np.concatenate([next(host)[:size] for host in hosts])
                for _ in range(count)]

    before, after = records(0, 23), records(23, epoch - 23)
    seen = np.concatenate(before + after)
    assert len(seen) == MANY and (np.bincount(seen) == 1).all()
    assert not source.reads
    # However far on: what is decoded is what is yielded and prepared ahead of it.
    batches = batches_lib.train_batches(
        source, resolution=2, batch_size=32, seed=4, start_batch=10**7, flip=False,
        workers=2, prefetch=3)
    first, second = next(batches), next(batches)
    batches.close()
    assert len(source.reads) <= 32 * (2 + 3 + 2)
    expected = next(source.train_records(
        seed=4, start_batch=10**7 + 1, batch_size=32, host_index=0, host_count=1))[:32]
    assert second['image'][:, 0, 0, 0].tolist() == [r % 256 for r in expected]
    assert first['image'][:, 0, 0, 0].tolist() != second['image'][:, 0, 0, 0].tolist()


@pytest.mark.slow
def test_resume_on_an_index_of_millions_of_files(
        tmp_path, monkeypatch, record_property):
    """Empty files: the time is that of the index alone, and is reported (-rP)."""
    if os.statvfs(tmp_path).f_favail < 2 * MANY:
        pytest.skip('needs a file system with room for 3.6 million more files')
    classes = 360
    for folder in range(classes):
        os.makedirs(tmp_path / 'all' / f'{folder:03}')
        for i in range(MANY // classes):
            os.close(os.open(tmp_path / f'all/{folder:03}/{i:08}.jpg',
                             os.O_CREAT | os.O_WRONLY))
    reads = []

    def decode(path, *_, **__):
        reads.append(path)
        return np.zeros((2, 2, 3), np.uint8)

    monkeypatch.setattr(images, 'decode', decode)
    started = time.monotonic()
    source = sources.open_source('folder', path=str(tmp_path / 'all'))
    indexed = time.monotonic()
    _take(batches_lib.train_batches(
        source, resolution=2, batch_size=32, seed=0, start_batch=1_234_567), 1)
    done = time.monotonic()
    print(f'{len(source):,} files: index {indexed - started:.1f} s, first batch after '
          f'resuming {done - indexed:.1f} s')
    record_property('seconds', done - started)
    shutil.rmtree(tmp_path / 'all')
    assert len(source) == MANY and len(reads) <= 32 * 7
    assert source.names == sorted(source.names)


def test_hosts_take_disjoint_parts_of_each_epoch(folder):
    source = sources.open_source('folder', path=str(folder))
    hosts = [_take(batches_lib.train_batches(
        source, resolution=8, batch_size=2, seed=5, host_index=h, host_count=5), 4)
        for h in range(5)]
    for batches in zip(*hosts):  # 10 images in each global batch
        assert len({i for b in batches for i in _indices(b)}) == 10
    for epoch in 0, 1:
        seen = [i for host in hosts for b in host[2 * epoch:2 * epoch + 2]
                for i in _indices(b)]
        assert sorted(seen) == list(range(20))


def test_batch_larger_than_the_source(tmp_path):
    _write(tmp_path, ['0.png', '1.png'])
    source = sources.open_source('folder', path=str(tmp_path))
    batch, = _take(batches_lib.train_batches(source, resolution=8, batch_size=6, seed=0), 1)
    assert sorted(_indices(batch)) == [0, 0, 0, 1, 1, 1]


def test_flip(folder):
    source = sources.open_source('folder', path=str(folder))
    kwargs = dict(resolution=8, batch_size=20, seed=0)
    plain = _take(batches_lib.train_batches(source, flip=False, **kwargs), 5)
    flipped = _take(batches_lib.train_batches(source, **kwargs), 5)
    assert not any(_mirrored(b).any() for b in plain)
    assert 30 < sum(_mirrored(b).sum() for b in flipped) < 70
    for a, b in zip(plain, flipped):
        for x, y, mirrored in zip(a['image'], b['image'], _mirrored(b)):
            np.testing.assert_array_equal(y[:, ::-1] if mirrored else y, x)


def test_randomness_differs_between_batches_and_hosts(tmp_path):
    _write(tmp_path, ['0.png'])
    source = sources.open_source('folder', path=str(tmp_path))

    def mirrored(host):
        return [_mirrored(b).tolist() for b in _take(batches_lib.train_batches(
            source, resolution=8, batch_size=32, seed=0, host_index=host,
            host_count=2), 3)]

    draws = mirrored(0) + mirrored(1)
    assert len({tuple(d) for d in draws}) == 6


def test_crops(tmp_path):
    _write(tmp_path, ['0.png'], height=32, width=64)
    y, x = np.mgrid[:32, :64]
    picture = np.stack([4 * x, 8 * y, 0 * x], -1).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / '0.png')
    source = sources.open_source('folder', path=str(tmp_path))

    def draw(crop, **kwargs):
        batches = batches_lib.train_batches(source, resolution=16, batch_size=32, seed=0,
                                     flip=False, crop=crop, **kwargs)
        return _take(batches, 1)[0]['image']

    np.testing.assert_array_equal(draw('squash')[0], images.squash(picture, 16))
    np.testing.assert_array_equal(
        draw('center')[0], images.squash(picture[:, 16:48], 16))

    def height(image):  # Of the cropped region, from the vertical gradient.
        return (int(image[-1, 8, 1]) - int(image[0, 8, 1])) / 8 * 16 / 15

    full = [height(i) for i in draw('random')]
    assert min(full) > 29 and len({int(i[8, 0, 0]) for i in draw('random')}) > 10
    varied = [height(i) for i in draw('random', min_crop=0.25)]
    assert 5 < min(varied) < 14 and max(varied) > 26


def test_cache_reads_each_image_once_within_its_budget(folder, monkeypatch):
    def reads(cache_mb, crop):
        source = sources.open_source('folder', path=str(folder), cache_mb=cache_mb)
        count = []
        load = source.load
        monkeypatch.setattr(source, 'load', lambda *a: count.append(a) or load(*a))
        _take(batches_lib.train_batches(source, resolution=8, batch_size=20, seed=0, workers=1,
                                 prefetch=1, crop=crop), 3)
        return len(count)

    for crop in batches_lib.CROPS:
        assert reads(1, crop) == 20
    assert reads(0, 'squash') >= 60
    # Ten results of 8 x 8 x 3 bytes fit: the other ten are read in each epoch.
    tenth = 10 * 192 / 2**20
    assert 20 + 20 <= reads(tenth, 'squash') <= 20 + 4 * 10


def test_threads_end_with_the_iterator(folder):
    source = sources.open_source('folder', path=str(folder))
    assert not _threads()
    batches = batches_lib.train_batches(source, resolution=8, batch_size=2, seed=0)
    next(batches)
    assert _threads()
    batches.close()
    assert not _threads()
    batches = batches_lib.train_batches(source, resolution=8, batch_size=2, seed=0)
    next(batches)
    del batches
    gc.collect()
    assert not _threads()
    list(batches_lib.eval_batches(source, resolution=8, batch_size=8))
    assert not _threads()


def test_worker_exception_reaches_the_consumer(folder, monkeypatch):
    source = sources.open_source('folder', path=str(folder))

    def fail(record, min_side):
        raise MemoryError('out of it')

    monkeypatch.setattr(source, 'load', fail)
    batches = batches_lib.train_batches(source, resolution=8, batch_size=2, seed=0)
    with pytest.raises(MemoryError, match='out of it'):
        next(batches)
    assert not _threads()


@pytest.mark.parametrize('kwargs, message', [
    (dict(crop='fill'), "crop='fill'"), (dict(min_crop=0.0), 'min_crop=0.0'),
    (dict(min_crop=1.5), 'min_crop=1.5'), (dict(batch_size=0), 'batch_size=0'),
    (dict(resolution=0), 'resolution=0'), (dict(workers=0), 'workers=0'),
    (dict(host_index=2, host_count=2), 'host_index=2'), (dict(seed=-1), 'seed=-1')])
def test_bad_arguments(folder, kwargs, message):
    source = sources.open_source('folder', path=str(folder))
    defaults = dict(resolution=8, batch_size=2, seed=0)
    with pytest.raises(ValueError, match=message):
        batches_lib.train_batches(source, **{**defaults, **kwargs})


# Unreadable images.


def _many(root, count, broken):
    """`count` images, of which those at the indices `broken` are text."""
    names = [f'{i:03}.png' for i in range(count)]
    _write(root, names, height=8, width=8)
    for i in broken:
        (root / names[i]).write_text('broken')
    return sources.open_source('folder', path=str(root))


@pytest.mark.parametrize('batch_size', [40, 1])
def test_one_percent_unreadable_is_skipped(tmp_path, warnings, batch_size):
    source = _many(tmp_path, 200, broken=[7, 8])

    def batches(start, count):
        return _take(batches_lib.train_batches(source, resolution=8, batch_size=batch_size,
                                        seed=2, start_batch=start), count)

    count = 600 // batch_size  # three epochs
    whole = batches(0, count)
    order = [i for batch in whole for i in _indices(batch)]
    assert not {7, 8} & set(order)
    assert set(order) == set(range(200)) - {7, 8}
    assert sorted(source.unreadable) == ['007.png', '008.png']
    assert len(warnings) == 2 and any('007.png' in w for w in warnings)
    # The stand-in is the next image of the same order, also after resuming.
    permutations = [sources.random_stream(2, sources.EPOCH_STREAM, e).permutation(200)
                    for e in range(4)]
    asked = np.concatenate(permutations)
    expected = []
    for i in range(600):
        while asked[i] in (7, 8):
            i += 1
        expected.append(asked[i])
    assert order == expected
    for a, b in zip(whole[6:], batches(6, count - 6), strict=True):
        np.testing.assert_array_equal(a['image'], b['image'])


def test_more_than_one_percent_unreadable_stops(tmp_path, warnings):
    source = _many(tmp_path, 200, broken=[7, 8, 150])
    batches = batches_lib.train_batches(source, resolution=8, batch_size=40, seed=2)
    with pytest.raises(ValueError, match='3 of 200 images are unreadable') as error:
        for _ in range(10):
            next(batches)
    for name in '007.png', '008.png', '150.png':
        assert name in str(error.value)
    assert len(warnings) == 3
    # The source remembers: a new iterator stops at the first of them.
    with pytest.raises(ValueError, match='3 of 200'):
        _take(batches_lib.train_batches(source, resolution=8, batch_size=100, seed=2), 2)
    with pytest.raises(ValueError, match='3 of 200'):
        list(batches_lib.eval_batches(source, resolution=8, batch_size=40))


def test_two_of_ten_unreadable_stop(tmp_path, warnings):
    source = _many(tmp_path, 10, broken=[3, 4])
    with pytest.raises(ValueError, match=r'2 of 10 images(.|\n)*003\.png'):
        list(batches_lib.eval_batches(source, resolution=8, batch_size=4))


def test_too_large_counts_as_unreadable(tmp_path, warnings):
    _write(tmp_path, ['a.png', 'b.png'])
    source = sources.open_source('folder', path=str(tmp_path), max_pixels=100)
    with pytest.raises(ValueError, match=r'a\.png: 36 x 24 pixels'):
        list(batches_lib.eval_batches(source, resolution=8, batch_size=2))


def test_no_readable_image_in_reach(tmp_path, warnings, monkeypatch):
    monkeypatch.setattr(sources, 'MAX_UNREADABLE', 1.0)
    source = _many(tmp_path, 3, broken=[0, 1, 2])
    with pytest.raises(ValueError, match='unreadable images in a row'):
        _take(batches_lib.train_batches(source, resolution=8, batch_size=1, seed=2), 1)


# Evaluation batches.


@pytest.mark.parametrize('host_count, limit', [(1, None), (3, None), (3, 7), (4, 100)])
def test_eval_covers_each_image_once(folder, host_count, limit):
    source = sources.open_source('folder', path=str(folder))
    hosts = [list(batches_lib.eval_batches(
        source, resolution=8, batch_size=3, host_index=h, host_count=host_count,
        limit=limit)) for h in range(host_count)]
    assert len({len(batches) for batches in hosts}) == 1
    count = min(limit or 20, 20)
    assert len(hosts[0]) == -(-count // (3 * host_count))
    seen = []
    for batch in (b for batches in hosts for b in batches):
        assert set(batch) == {'image', 'valid', 'name'}
        assert batch['image'].shape == (3, 8, 8, 3) and batch['image'].dtype == np.uint8
        assert batch['valid'].shape == (3,) and batch['valid'].dtype == bool
        for image, valid, name in zip(*(batch[k] for k in ('image', 'valid', 'name'))):
            if valid:
                seen.append(name)
                np.testing.assert_array_equal(
                    image, images.squash(_picture(int(name[:2])), 8))
            else:
                assert name == '' and not image.any()
    assert sorted(seen) == source.names[:count]


def test_eval_unreadable_is_not_valid(tmp_path, warnings):
    source = _many(tmp_path, 100, broken=[5])
    batches = list(batches_lib.eval_batches(source, resolution=8, batch_size=50))
    assert np.concatenate([b['valid'] for b in batches]).sum() == 99
    assert not batches[0]['valid'][5] and batches[0]['name'][5] == '005.png'
    assert not batches[0]['image'][5].any()
    assert len(warnings) == 1 and '005.png' in warnings[0]


def test_eval_crop_and_arguments(tmp_path):
    # A JPEG large enough that training would decode it at half its size.
    picture = np.random.default_rng(0).integers(0, 256, (64, 96, 3)).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / 'a.jpg')
    source = sources.open_source('folder', path=str(tmp_path), cache_mb=1)
    decoded = images.decode(tmp_path / 'a.jpg')
    for _ in range(2):  # The second time from the cache.
        _take(batches_lib.train_batches(source, resolution=8, batch_size=1, seed=0), 1)
        for crop, region in ('squash', decoded), ('center', decoded[:, 16:80]):
            batch, = batches_lib.eval_batches(source, resolution=8, batch_size=1, crop=crop)
            np.testing.assert_array_equal(batch['image'][0], images.squash(region, 8))
    with pytest.raises(ValueError, match="crop='random'"):
        batches_lib.eval_batches(source, resolution=8, batch_size=1, crop='random')
    with pytest.raises(ValueError, match='limit=0'):
        batches_lib.eval_batches(source, resolution=8, batch_size=1, limit=0)


# TensorFlow Datasets.


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
    """The data directory of a prepared data set: train 17 images, test 5."""
    pytest.importorskip('tensorflow_datasets')
    path = str(tmp_path_factory.mktemp('tfds'))
    tiny_tfds.prepare(path, lambda i: _picture(i, 8, 8))
    return path


def _tfds(prepared, split='train', **kwargs):
    return sources.open_source(
        'tfds', name='tiny_pictures', path=prepared, split=split, **kwargs)


@pytest.mark.parametrize('damaged', [1, 2])
def test_first_damaged_file_of_a_small_folder_is_skipped_and_named(
        tmp_path, warnings, damaged):
    for i in range(6):
        Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(tmp_path / f'{i}.png')
    for i in range(damaged):
        (tmp_path / f'{i}.png').write_bytes(b'no picture')
    source = sources.open_source('folder', path=str(tmp_path))
    batches = batches_lib.eval_batches(source, resolution=8, batch_size=6)
    if damaged == 2:
        with pytest.raises(ValueError, match='2 of 6 images are unreadable'):
            list(batches)
        return
    (batch,) = batches
    assert batch['valid'].tolist() == [False] + [True] * 5
    assert list(source.unreadable) == ['0.png'] and '0.png' in warnings[0]


@pytest.mark.parametrize('error, refused', [
    # As TFDS raises what its client for buckets raised.
    (RuntimeError('FailedPreconditionError: Error executing an HTTP request: libcurl code '
                  '6 meaning ...'), True),
    (RuntimeError('a fault of the program'), False)])
def test_a_bucket_that_does_not_answer_is_named(prepared, monkeypatch, error, refused):
    import tensorflow_datasets

    def builder(*args, **kwargs):
        raise error

    monkeypatch.setattr(tensorflow_datasets, 'builder', builder)
    if refused:
        with pytest.raises(ValueError, match="'gs://pictures/data'.*libcurl"):
            _tfds('gs://pictures/data')
    else:
        with pytest.raises(RuntimeError, match='fault of the program'):
            _tfds('gs://pictures/data')


def test_tfds_eval(prepared):
    source = _tfds(prepared)
    assert len(source) == 17
    hosts = [list(batches_lib.eval_batches(
        source, resolution=8, batch_size=3, host_index=h, host_count=2))
        for h in range(2)]
    assert [len(batches) for batches in hosts] == [3, 3]
    found = {name: i for batches in hosts for b in batches
             for name, i, valid in zip(b['name'], _indices(b), b['valid']) if valid}
    assert sorted(found.values()) == list(range(17))
    again, = batches_lib.eval_batches(source, resolution=8, batch_size=4, limit=4)
    assert [found[n] for n in again['name']] == _indices(again)
    for split, count in ('', 22), ('test', 5), ('train[:50%]+test[1:]', 12):
        assert len(_tfds(prepared, split)) == count


def test_tfds_training_resumes_and_shards(prepared):
    source = _tfds(prepared)

    def batches(count, start=0, host=0, seed=3):
        return _take(batches_lib.train_batches(
            source, resolution=8, batch_size=4, seed=seed, start_batch=start,
            host_index=host, host_count=2, workers=1, prefetch=1), count)

    whole = batches(6)  # 24 = three epochs of this host's 8 images
    epochs = [_indices(a) + _indices(b) for a, b in zip(whole[::2], whole[1::2])]
    assert all(sorted(e) == sorted(epochs[0]) for e in epochs)
    assert len(set(epochs[0])) == 8 and epochs[0] != epochs[1]
    other = [i for b in batches(2, host=1) for i in _indices(b)]
    assert len(set(other)) == 8 and not set(other) & set(epochs[0])
    for start in 3, 4:
        for a, b in zip(whole[start:], batches(6 - start, start), strict=True):
            np.testing.assert_array_equal(a['image'], b['image'])
    assert [_indices(b) for b in batches(2, seed=4)] != [_indices(b) for b in whole[:2]]


def test_tfds_unreadable_counts(prepared, warnings):
    source = _tfds(prepared, max_pixels=10)
    with pytest.raises(ValueError, match=r'of 17 images.*\n.*tiny_pictures-train'):
        _take(batches_lib.train_batches(source, resolution=8, batch_size=2, seed=0), 1)


def test_tfds_errors(prepared, tmp_path):
    with pytest.raises(ValueError, match=r"cannot use split 'val'.*'train': 17"):
        _tfds(prepared, 'val')
    with pytest.raises(ValueError, match=r"selects nothing.*'test': 5"):
        _tfds(prepared, 'test[5:]')
    with pytest.raises(ValueError, match='TFDS no_such_set: cannot open'):
        sources.open_source('tfds', name='no_such_set', path=prepared)
    with pytest.raises(ValueError, match='17 images are too few for 18 hosts'):
        _take(batches_lib.train_batches(_tfds(prepared), resolution=8, batch_size=1, seed=0,
                                 host_count=18), 1)
    with pytest.raises(ValueError, match='tfds build mnist'):
        sources.open_source('tfds', name='mnist', path=str(tmp_path))


def test_tfds_from_the_directory_of_a_version(prepared, tmp_path):
    shutil.copytree(os.path.join(prepared, 'tiny_pictures'), tmp_path / 'moved')
    source = sources.open_source('tfds', path=str(tmp_path / 'moved/1.0.0'), split='test')
    assert len(source) == 5
