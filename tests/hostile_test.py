"""Input that is damaged, absurd or meant to harm: refused by name, or read as it is."""

import io
import os
import pathlib
import pickle
import struct
import subprocess
import sys
import tracemalloc
import types
import zipfile
import zlib

import jax.numpy as jnp
import numpy as np
import onnx
from onnx import helper
from onnx import numpy_helper
from PIL import Image
import pytest
import torch

import evaluate as evaluate_tool
from faults import Touches
import from_torch
import inpaint as inpaint_tool
import make_grid
import make_masks
import make_study
from migan_jax import cli
from migan_jax.data import batches as batches_lib
from migan_jax.data import images
from migan_jax.data import mask_files
from migan_jax.data import sources
from migan_jax.data import torch_files
from migan_jax.evaluation import painters
from migan_jax import storage

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOOLS = ROOT / 'tools'
R = 16


def grey(x):
    return jnp.zeros((*x.shape[:3], 3))


def never(*_, **__):
    raise AssertionError('must not run')


def picture(height=R, width=R, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def holed(height=R, width=R):
    """u8[height, width]: 255 = known, a hole (0) in the middle."""
    mask = np.full((height, width), 255, np.uint8)
    mask[height // 4:height // 2 + 1, width // 4:width // 2 + 1] = 0
    return mask


def encoded(image, kind='PNG', **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_header(width, height):
    """A PNG that claims a size and ends there."""
    head = b'IHDR' + struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    return (b'\x89PNG\r\n\x1a\n' + struct.pack('>I', 13) + head
            + struct.pack('>I', zlib.crc32(head)) + struct.pack('>I', 99) + b'IDAT')


def oriented(image, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, 'JPEG', exif=exif)


def strange_images():
    """{name: (bytes, (width, height) when upright)}: unusual, and no fault in them."""
    rgb = Image.fromarray(picture(20, 30))
    frames = [Image.new('RGB', (12, 9), color) for color in ('red', 'blue', 'lime')]
    deep = np.arange(600, dtype=np.uint16).reshape(20, 30) * 100
    several = dict(save_all=True, append_images=frames[1:])
    return {
        'png_named.jpg': (encoded(rgb), (30, 20)),
        'jpg_named.png': (encoded(rgb, 'JPEG'), (30, 20)),
        'gif_named.webp': (encoded(frames[0], 'GIF', **several), (12, 9)),
        'animated.webp': (encoded(frames[0], 'WEBP', **several), (12, 9)),
        'animated.png': (encoded(frames[0], 'PNG', **several), (12, 9)),
        'cmyk.jpg': (encoded(rgb.convert('CMYK'), 'JPEG'), (30, 20)),
        'sixteen.png': (encoded(Image.fromarray(deep)), (30, 20)),
        'palette.png': (encoded(rgb.quantize(7), transparency=3), (30, 20)),
        'turned.jpg': (oriented(rgb, 6), (20, 30)),
        'pixel.png': (encoded(rgb.crop((0, 0, 1, 1))), (1, 1)),
        'line.png': (encoded(rgb.resize((1, 50))), (1, 50)),
    }


def bad_images():
    """{name: (bytes, what the complaint says)}."""
    png = encoded(Image.fromarray(picture()))
    jpg = encoded(Image.fromarray(picture()), 'JPEG')
    return {
        'truncated.png': (png[:len(png) // 2], 'cannot read it as an image'),
        'truncated.jpg': (jpg[:len(jpg) // 2], 'cannot read it as an image'),
        'empty.png': (b'', 'cannot read it as an image'),
        'page.jpg': (b'<!DOCTYPE html><html></html>', 'cannot read it as an image'),
        'script.png': (b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n',
                       'cannot read it as an image'),
        # Just beyond the limit of training; that of the tools is a little lower.
        'huge.png': (png_header(10_001, 10_000), '10001 x 10000 pixels, more than the'),
        'bomb.png': (png_header(2**31 - 1, 2**31 - 1), 'DecompressionBomb'),
    }


STRANGE, BAD = strange_images(), bad_images()

# What a shell, a terminal or a page would trip over, and names as long as they get.
NAMES = [
    ' ', 'a b', 'qu"o\'te', 'new\nline', '\x1b[31mred', '%s %d', '-rf', '$(touch x)',
    'a;b,c=d', 'back\\slash', '<b>&amp;', '日本語', 'عربي', 'Ünï𝕔ødé', 'a..b', '~',
    'x' * 251,
]


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def save(path, pixels):
    return write(path, encoded(Image.fromarray(pixels)))


def save_zip(path, entries):
    """A zip of {name: bytes}, deflated, names as they are."""
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as file:
        for name, content in entries.items():
            file.writestr(name, content)
    return path


def one_line(error, *parts):
    message = str(error.value)
    assert message.isprintable(), message
    for part in parts:
        assert part in message, message
    return message


# Images, in training and evaluation.


def opened(kind, folder, entries, **options):
    """A folder or zip source of {name: bytes}."""
    if kind == 'zip':
        path = save_zip(folder / 'all.zip', entries)
    else:
        path = folder / 'all'
        for name, content in entries.items():
            write(path / name, content)
    return sources.open_source(kind, path=str(path), **options)


def take(batches, count):
    out = [next(batches)['image'] for _ in range(count)]
    batches.close()
    return np.concatenate(out)


@pytest.mark.parametrize('kind', ['folder', 'zip'])
def test_strange_images_train_and_evaluate(tmp_path, kind):
    source = opened(kind, tmp_path, {k: content for k, (content, _) in STRANGE.items()})
    assert len(source) == len(STRANGE)
    for crop in batches_lib.CROPS:
        taken = take(batches_lib.train_batches(
            source, resolution=R, batch_size=len(STRANGE), seed=0, crop=crop,
            min_crop=0.3), 2)
        assert taken.shape == (2 * len(STRANGE), R, R, 3)
    (batch,) = batches_lib.eval_batches(source, resolution=R, batch_size=len(STRANGE))
    assert batch['valid'].all() and not source.unreadable
    for i, name in enumerate(batch['name']):
        width, height = STRANGE[name][1]
        assert source.read(i).shape == (height, width, 3)
        # Animations: the first frame, which is red.
        if name.startswith(('animated', 'gif')):
            assert (np.abs(batch['image'][i].astype(int) - [255, 0, 0]) < 8).all()


@pytest.mark.parametrize('kind', ['folder', 'zip'])
def test_bad_images_are_named_and_replaced_in_training(tmp_path, kind, warnings):
    good = encoded(Image.fromarray(picture(8, 8)))
    names = [f'{i:03}.png' for i in range(100 * len(BAD))]
    bad = {f'bad/{name}': content for name, (content, _) in BAD.items()}
    source = opened(kind, tmp_path, {**dict.fromkeys(names, good), **bad},
                    max_pixels=100_000_000)
    taken = take(batches_lib.train_batches(source, resolution=8, batch_size=101, seed=0), 7)
    np.testing.assert_array_equal(taken | taken[:, :, ::-1], np.broadcast_to(
        picture(8, 8) | picture(8, 8)[:, ::-1], taken.shape))
    assert sorted(source.unreadable) == sorted(bad)
    for name, (_, complaint) in BAD.items():
        reason = source.unreadable[f'bad/{name}']
        assert name in reason and complaint in reason
        assert sum(name in w for w in warnings) == 1


def test_more_bad_images_than_one_per_cent_stop_training(tmp_path, warnings):
    good = encoded(Image.fromarray(picture(8, 8)))
    names = [f'{i:03}.png' for i in range(99)]
    source = opened('folder', tmp_path, {
        **dict.fromkeys(names, good), 'a.png': b'', 'b\n.png': b''})
    with pytest.raises(ValueError, match='2 of 101 images') as caught:
        take(batches_lib.train_batches(source, resolution=8, batch_size=101, seed=0), 2)
    assert len(str(caught.value).splitlines()) == 3


def test_too_large_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(Image.Image, 'load', never)
    path = write(tmp_path / 'huge.png', png_header(10_000, 10_000))
    for read in images.decode, images.stored_size:
        with pytest.raises(images.UnreadableImage) as caught:
            read(path)
        one_line(caught, '10000 x 10000 pixels', f'{images.MAX_PIXELS:,} allowed')
        with pytest.raises(images.UnreadableImage, match='99,999,999 allowed'):
            read(path, max_pixels=99_999_999)
    # A hundred million are what data.max_pixels allows training by default.
    assert images.stored_size(path, max_pixels=100_000_000) == (10_000, 10_000)


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / 'pipe.png')
    os.symlink('/dev/zero', tmp_path / 'zero.png')
    source = sources.open_source('folder', path=str(tmp_path))
    assert source.names == ['pipe.png', 'zero.png']
    for i in range(2):
        with pytest.raises(images.UnreadableImage, match='not a regular file'):
            source.read(i)
    for path in images.by_stem(tmp_path).values():
        with pytest.raises(images.UnreadableImage, match='not a regular file'):
            mask_files.read(path)


# Images, in the tools.


def inpaint(folder, generate=grey, **options):
    return inpaint_tool.run(generate, R, **{
        'images': folder / 'images', 'masks': folder / 'masks', 'out': folder / 'out',
        **options})


@pytest.mark.parametrize('mode', ['resize', 'pipeline'])
def test_strange_images_are_inpainted(tmp_path, mode):
    for name, (content, (width, height)) in STRANGE.items():
        write(tmp_path / 'images' / name, content)
        save(tmp_path / 'masks' / f'{pathlib.Path(name).stem}.png',
             holed(height, width))
    # One stem twice is refused, so the animations go by their own names.
    (tmp_path / 'images/animated.png').rename(tmp_path / 'images/moving.png')
    save(tmp_path / 'masks/moving.png', holed(9, 12))
    written = inpaint(tmp_path, mode=mode)
    assert len(written) == len(STRANGE)
    sizes = {pathlib.Path(name).stem: size for name, (_, size) in STRANGE.items()}
    for path in written:
        with Image.open(path) as result:
            assert result.size == sizes[path.stem.replace('moving', 'animated')]


@pytest.mark.parametrize('where', ['images', 'masks'])
@pytest.mark.parametrize('name', BAD)
def test_bad_images_and_masks_stop_inpainting_before_it_starts(tmp_path, where, name):
    for kind, pixels in (('images', picture()), ('masks', holed())):
        save(tmp_path / kind / 'good.png', pixels)
        save(tmp_path / kind / 'zbad.png', pixels)
    (tmp_path / where / 'zbad.png').unlink()
    content, complaint = BAD[name]
    path = write(tmp_path / where / f'zbad{pathlib.Path(name).suffix}', content)
    with pytest.raises(inpaint_tool.InputError) as caught:
        inpaint(tmp_path, never)
    one_line(caught, str(path), complaint)
    assert not (tmp_path / 'out').exists()


@pytest.fixture
def compared(tmp_path):
    """Folders images, masks, A and B with one picture, for make_grid and evaluate."""
    for kind, pixels in (
            ('images', picture(20, 30)), ('masks', holed()), ('A', picture(seed=1)),
            ('B', picture(seed=2))):
        save(tmp_path / kind / 'a.png', pixels)
    return tmp_path


def grid_rows(folder, methods=('A', 'B')):
    return make_grid.load(str(folder / 'images'), str(folder / 'masks'),
                          {name: str(folder / name) for name in methods})


@pytest.mark.parametrize('where', ['images', 'masks', 'A'])
@pytest.mark.parametrize('name', BAD)
def test_bad_images_stop_a_sheet_or_a_study(compared, where, name):
    assert list(grid_rows(compared)) == ['a']
    content, complaint = BAD[name]
    path = write(compared / where / 'a.png', content)
    with pytest.raises(ValueError) as caught:
        grid_rows(compared)
    one_line(caught, str(path), complaint)


@pytest.mark.parametrize('where', ['masks', 'A'])
@pytest.mark.parametrize('name', BAD)
def test_bad_masks_and_predictions_stop_an_evaluation(compared, where, name):
    content, complaint = BAD[name]
    path = write(compared / where / 'a.png', content)
    with pytest.raises(ValueError) as caught:
        evaluate(compared, masks=str(compared / 'masks'),
                 predictions=str(compared / 'A'))
    one_line(caught, str(path), complaint)
    assert not (compared / 'result.json').exists()


def evaluate(folder, out=None, **options):
    return evaluate_tool.run('', str(folder / 'images'), str(out or folder / 'result'),
                             None, None, evaluate_tool.Options(**options))


@pytest.mark.parametrize('name', BAD)
def test_evaluation_of_nothing_but_bad_originals(compared, name, warnings):
    write(compared / 'images/a.png', BAD[name][0])
    with pytest.raises(ValueError, match='1 of 1 images are unreadable') as caught:
        evaluate(compared, predictions=str(compared / 'A'),
                 masks=str(compared / 'masks'))
    assert BAD[name][1] in str(caught.value)


# Zip files.


@pytest.mark.parametrize('name', [
    '/etc/a.png', '../a.png', 'a/../../b.png', '..\\..\\a.png', 'C:\\a.png', 'C:a.png',
    '\\\\host\\a.png', '../no_image.txt'])
def test_zip_names_that_lead_outside(tmp_path, name):
    good = encoded(Image.fromarray(picture(8, 8)))
    path = save_zip(tmp_path / 'a.zip', {'good.png': good, name: good})
    with pytest.raises(ValueError) as caught:
        sources.open_source('zip', path=str(path))
    one_line(caught, '1 entries have absolute names or ".."', storage.shown(name))


def test_zip_names_with_dots_that_stay_inside(tmp_path):
    good = encoded(Image.fromarray(picture(8, 8)))
    path = save_zip(tmp_path / 'a.zip', {'a..b.png': good, 'c../d...png': good})
    source = sources.open_source('zip', path=str(path))
    assert source.names == ['a..b.png', 'c../d...png']
    np.testing.assert_array_equal(source.read(1), picture(8, 8))


def test_zip_entry_without_a_name(tmp_path):
    """Found by fuzz_test: zipfile itself raised IndexError."""
    good = encoded(Image.fromarray(picture(8, 8)))
    with zipfile.ZipFile(tmp_path / 'a.zip', 'w') as file:
        file.writestr(zipfile.ZipInfo('a.png'), good)
        file.writestr(zipfile.ZipInfo('x'), good)
    content = (tmp_path / 'a.zip').read_bytes()
    # The second entry of the directory: a name of no bytes, then one of "extra" data.
    place = content.rindex(b'PK\x01\x02')
    lengths = struct.pack('<HH', 0, 1)
    (tmp_path / 'a.zip').write_bytes(
        content[:place + 28] + lengths + content[place + 32:])
    with zipfile.ZipFile(tmp_path / 'a.zip') as file:
        assert file.namelist() == ['a.png', '']
    assert sources.open_source('zip', path=str(tmp_path / 'a.zip')).names == ['a.png']


def bomb(path, size, claimed, method=zipfile.ZIP_DEFLATED):
    """A zip of one entry of zeros whose directory claims another size."""
    with zipfile.ZipFile(path, 'w', method) as file:
        with file.open('zeros.png', 'w') as entry:
            for _ in range(size // 2**20):
                entry.write(bytes(2**20))
        file.getinfo('zeros.png').file_size = claimed
    return str(path)


@pytest.mark.parametrize('size, claimed, method, complaint', [
    # Told by what the directory says, and not read at all:
    (2**20, 3 * 2**30, zipfile.ZIP_DEFLATED, '3,221,225,472 bytes, too many'),
    (32 * 2**20, 32 * 2**20, zipfile.ZIP_DEFLATED, 'that expand to 33,554,432'),
    (64 * 2**20, 1000, zipfile.ZIP_BZIP2, 'compression method 12'),
    (64 * 2**20, 1000, zipfile.ZIP_LZMA, 'compression method 14'),
    # It lies: no more is expanded than it said.
    (64 * 2**20, 1000, zipfile.ZIP_DEFLATED, 'Bad CRC-32'),
])
def test_zip_bombs_take_no_memory(tmp_path, size, claimed, method, complaint):
    path = bomb(tmp_path / 'bomb.zip', size, claimed, method)
    assert os.path.getsize(path) < 2**20
    source = sources.open_source('zip', path=path)
    tracemalloc.start()
    try:
        with pytest.raises(images.UnreadableImage) as caught:
            source.read(0)
        assert tracemalloc.get_traced_memory()[1] < 2 * 2**20
    finally:
        tracemalloc.stop()
    one_line(caught, complaint, 'bomb.zip:zeros.png')


def test_encrypted_zip_entry(tmp_path):
    path = save_zip(tmp_path / 'a.zip', {'a.png': b'x'})
    content = bytearray(path.read_bytes())
    content[content.index(b'PK\x01\x02') + 8] |= 1
    content[6] |= 1
    path.write_bytes(content)
    source = sources.open_source('zip', path=str(path))
    with pytest.raises(images.UnreadableImage) as caught:
        source.read(0)
    one_line(caught, 'encrypted')


def test_zip_that_is_a_folder_or_a_pipe(tmp_path):
    os.mkfifo(tmp_path / 'pipe.zip')
    for path in tmp_path, tmp_path / 'pipe.zip':
        with pytest.raises(ValueError, match='cannot open it'):
            sources.open_source('zip', path=str(path))


# Links.


def test_links_that_lead_in_circles(tmp_path):
    root = tmp_path / 'root'
    save(root / 'sub/a.png', picture())
    save(tmp_path / 'elsewhere/b.png', picture())
    os.symlink(root, root / 'sub/up')
    os.symlink('.', root / 'here')
    os.symlink(root / 'sub', tmp_path / 'elsewhere/back')
    os.symlink(tmp_path / 'elsewhere', root / 'away')
    assert sorted(images.walk(root)) == ['away/b.png', 'sub/a.png']
    assert list(images.by_stem(root)) == ['away/b', 'sub/a']
    source = sources.open_source('folder', path=str(root))
    assert source.names == ['away/b.png', 'sub/a.png']


def test_a_maze_of_links_is_walked_once(tmp_path, monkeypatch):
    # Ten folders that lead to each other: a million ways through them.
    for i in range(10):
        save(tmp_path / str(i) / f'{i}.png', picture(2, 2))
        for j in range(10):
            os.symlink(tmp_path / str(j), tmp_path / str(i) / f'to{j}')
    entered = []
    scan = os.scandir
    monkeypatch.setattr(os, 'scandir', lambda path: entered.append(path) or scan(path))
    assert sorted(images.walk(tmp_path)) == [f'{i}/{i}.png' for i in range(10)]
    assert len(entered) == 11


def test_links_to_themselves_and_to_nothing_are_named(tmp_path):
    save(tmp_path / 'images/good.png', picture())
    save(tmp_path / 'masks/good.png', holed())
    for name, target in (('loop', 'loop.png'), ('broken', 'nowhere.png')):
        os.symlink(target, tmp_path / f'images/{name}.png')
        save(tmp_path / f'masks/{name}.png', holed())
    source = sources.open_source('folder', path=str(tmp_path / 'images'))
    assert source.names == ['broken.png', 'good.png', 'loop.png']
    for i in (0, 2):
        with pytest.raises(images.UnreadableImage, match=source.names[i]):
            source.read(i)
    with pytest.raises(inpaint_tool.InputError) as caught:
        inpaint(tmp_path, never)
    broken, loop = str(caught.value).splitlines()
    assert 'broken.png' in broken and 'loop.png' in loop


def test_a_folder_that_can_not_be_listed_is_no_empty_one(tmp_path, monkeypatch):
    save(tmp_path / 'a.png', picture())
    save(tmp_path / 'closed/b.png', picture())
    scan = os.scandir

    def refuse(path):
        if path.endswith('closed/'):
            raise PermissionError(13, 'Permission denied', path)
        return scan(path)

    # By hand: root may list any folder.
    monkeypatch.setattr(os, 'scandir', refuse)
    for find in (images.by_stem, lambda path: sources.open_source('folder', path=path)):
        with pytest.raises(ValueError) as caught:
            find(str(tmp_path))
        one_line(caught, 'closed', 'Permission denied')


# Names.


@pytest.mark.parametrize('kind', ['folder', 'zip'])
def test_names_in_training(tmp_path, kind):
    good = encoded(Image.fromarray(picture(8, 8)))
    names = [f'{stem}.png' for stem in NAMES]
    source = opened(kind, tmp_path, dict.fromkeys(names, good))
    assert source.names == sorted(names)
    (batch,) = batches_lib.eval_batches(source, resolution=8, batch_size=len(names))
    assert batch['valid'].all() and batch['name'] == sorted(names)
    take(batches_lib.train_batches(source, resolution=8, batch_size=4, seed=0), 8)


def test_names_that_are_no_text(tmp_path):
    """Bytes that are not UTF-8: read, and escaped in messages."""
    good = encoded(Image.fromarray(picture(8, 8)))
    with open(os.path.join(os.fsencode(tmp_path), b'b\xff.png'), 'wb') as file:
        file.write(good)
    source = sources.open_source('folder', path=str(tmp_path))
    np.testing.assert_array_equal(source.read(0), picture(8, 8))
    (stem,) = images.by_stem(tmp_path)
    with open(os.path.join(os.fsencode(tmp_path), b'b\xff.png'), 'wb') as file:
        file.write(b'')
    with pytest.raises(images.UnreadableImage) as caught:
        source.read(0)
    one_line(caught, r'b\udcff.png')
    assert storage.shown(stem) == r'b\udcff'


def test_names_in_inpainting(tmp_path):
    for i, stem in enumerate(NAMES):
        save(tmp_path / f'images/{stem}.png', picture(seed=i))
        save(tmp_path / f'masks/{stem}.png', holed())
    written = inpaint(tmp_path)
    assert sorted(written) == sorted(tmp_path / f'out/{stem}.png' for stem in NAMES)
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == sorted(
        f'{stem}.png' for stem in NAMES)


def test_names_in_messages_are_one_printable_line(tmp_path):
    for stem in NAMES:
        write(tmp_path / f'images/{stem}.png', b'')
        save(tmp_path / f'masks/{stem}.png', holed())
    with pytest.raises(inpaint_tool.InputError) as caught:
        inpaint(tmp_path, never)
    lines = str(caught.value).split('\n')
    assert len(lines) == len(NAMES) and all(line.isprintable() for line in lines)
    (tmp_path / 'masks/new\nline.png').unlink()
    with pytest.raises(inpaint_tool.InputError) as caught:
        inpaint(tmp_path, never)
    one_line(caught, r'new\nline.png')


def test_names_in_masks_sheets_studies_and_tables(tmp_path):
    for i, stem in enumerate(NAMES):
        save(tmp_path / f'images/{stem}.png', picture(seed=i))
        for method in 'AB':
            save(tmp_path / method / f'{stem}.png', picture(seed=ord(method)))
    count, _ = make_masks.make_masks(
        tmp_path / 'images', tmp_path / 'masks', R, (0.1, 0.9), brush_width=(1, 4))
    assert count == len(NAMES)
    assert images.by_stem(tmp_path / 'masks').keys() == set(NAMES)
    rows = grid_rows(tmp_path)
    assert rows.keys() == set(NAMES)
    page, key = make_study.make(rows, 0)
    assert {pair['image'] for pair in key['pairs'].values()} == set(NAMES)
    assert page.count('</script>') == 1
    evaluate(tmp_path, masks=str(tmp_path / 'masks'), predictions=str(tmp_path / 'A'),
             save_masks=str(tmp_path / 'again'), metrics=('psnr',))
    assert images.by_stem(tmp_path / 'again').keys() == set(NAMES)


def test_accents_are_one_name_however_a_system_writes_them(tmp_path):
    """Masks and predictions made on Linux, photographs copied from macOS."""
    composed, decomposed = 'gr\u00fcn', 'gru\u0308n'
    save(tmp_path / f'images/{decomposed}.png', picture())
    save(tmp_path / f'same/{composed}.png', picture())
    save(tmp_path / f'A/{composed}.png', picture(seed=1))
    drawn = []
    for folder, images_of in (('masks', 'images'), ('again', 'same')):
        make_masks.make_masks(tmp_path / images_of, tmp_path / folder, R, (0.1, 0.9),
                              brush_width=(1, 4))
        drawn.append((tmp_path / folder / f'{composed}.png').read_bytes())
    assert drawn[0] == drawn[1]
    # Masks that are drawn have the name for a key, those that are read for a file.
    for options in ({}, {'masks': str(tmp_path / 'masks')}):
        found = [evaluate_tool.run(
            '', str(tmp_path / images_of), str(tmp_path / 'result'), None, None,
            evaluate_tool.Options(predictions=str(tmp_path / 'A'), metrics=('psnr',),
                                  hole_ranges=((0.1, 0.9),), **options))
            for images_of in ('images', 'same')]
        assert found[0]['psnr'] == found[1]['psnr']
    assert list(make_grid.load(
        str(tmp_path / 'images'), str(tmp_path / 'masks'), {'A': str(tmp_path / 'A')},
        [decomposed])) == [composed]


# Places for results.


def test_results_among_the_inputs_need_overwrite(compared):
    save(compared / 'same/a.png', picture())
    save(compared / 'same_masks/a.png', holed())
    folders = dict(images=compared / 'same', masks=compared / 'same_masks')
    for out in compared / 'same', compared / 'same/results', compared / 'same_masks':
        with pytest.raises(inpaint_tool.InputError) as caught:
            inpaint(compared, never, out=out, **folders)
        one_line(caught, f'--out={out}', '--overwrite')
    os.symlink(compared / 'same', compared / 'alias')
    with pytest.raises(inpaint_tool.InputError, match='--overwrite'):
        inpaint(compared, never, out=compared / 'alias', **folders)
    (written,) = inpaint(compared, out=compared / 'same', overwrite=True, **folders)
    assert written == compared / 'same/a.png'
    result = images.decode(written)
    assert (result[holed() == 0] == 128).all()
    np.testing.assert_array_equal(result[holed() == 255], picture()[holed() == 255])

    folder = compared / 'images'
    with pytest.raises(ValueError, match='--overwrite'):
        make_masks.make_masks(folder, folder, R, (0.1, 0.9), brush_width=(1, 4))
    np.testing.assert_array_equal(images.decode(folder / 'a.png'), picture(20, 30))
    make_masks.make_masks(
        folder, folder, R, (0.1, 0.9), brush_width=(1, 4), overwrite=True)
    assert images.decode(folder / 'a.png').shape == (R, R, 3)


def test_an_evaluation_among_its_inputs_needs_overwrite(compared):
    given = dict(masks=str(compared / 'masks'), predictions=str(compared / 'A'),
                 metrics=('psnr',))
    before = sorted(compared.rglob('*'))
    for place in 'images', 'masks', 'A':
        with pytest.raises(ValueError) as caught:
            evaluate(compared, compared / place / 'a', **given)
        one_line(caught, f'--out={compared / place}', '--overwrite')
        with pytest.raises(ValueError) as caught:
            evaluate(compared, save_masks=str(compared / place), **given)
        one_line(caught, f'--save_masks={compared / place}', '--overwrite')
    assert sorted(p for p in compared.rglob('*') if 'result' not in p.name) == before
    evaluate(compared, compared / 'images/b', overwrite=True, **given)
    assert (compared / 'images/b.json').exists()


@pytest.mark.parametrize('name', ['make_grid', 'make_study'])
def test_sheets_and_studies_among_their_inputs_need_overwrite(compared, name):
    def run(*more):
        return subprocess.run(
            [sys.executable, TOOLS / f'{name}.py', '--images=images', '--masks=masks',
             '--methods=A=A;B=B', *more], cwd=compared, capture_output=True, text=True,
            env={**os.environ, 'PYTHONPATH': str(ROOT)})

    before = {p: p.read_bytes() for p in compared.rglob('*') if p.is_file()}
    done = run('--out=images/a.png')
    assert done.returncode == 1 and done.stderr.count('\n') == 1, done.stderr
    assert done.stderr.startswith('error: --out=images/a.png') and (
        '--overwrite' in done.stderr)
    assert {p: p.read_bytes() for p in compared.rglob('*') if p.is_file()} == before
    done = run('--out=images/a.png', '--overwrite')
    assert done.returncode == 0, done.stderr


def unwritable(folder):
    """Places where even root can write nothing."""
    write(folder / 'file', b'')
    return [folder / 'file/sub', pathlib.Path('/proc/self/no')]


@pytest.mark.skipif(not os.path.isdir('/proc/self'), reason='needs Linux')
def test_places_that_can_not_be_written_to_show_before_the_work(
        compared, monkeypatch):
    monkeypatch.setattr(make_masks.masks, 'free_form', lambda *_, **__: jnp.zeros(1))
    monkeypatch.setattr(make_masks, 'write_mask', never)
    monkeypatch.setattr(evaluate_tool.methods, 'measure', never)
    save(compared / 'images/a.png', picture())
    args = types.SimpleNamespace(
        images=str(compared / 'images'), masks=str(compared / 'masks'), overwrite=False)
    for out in unwritable(compared):
        args.out = str(out / 'x.png')
        for attempt in (
                lambda: inpaint(compared, never, out=out),
                lambda: make_masks.make_masks(compared / 'images', out, R, (0.1, 0.9)),
                lambda: evaluate(compared, out / 'x', predictions=str(compared / 'A'),
                                 masks=str(compared / 'masks')),
                lambda: make_grid.check_out([args.out], args, {})):
            with pytest.raises(ValueError) as caught:
                attempt()
            one_line(caught, str(out), 'cannot write into this folder')


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write anywhere')
def test_folder_without_permission_to_write(tmp_path):
    (tmp_path / 'closed').mkdir(mode=0o555)
    with pytest.raises(ValueError, match='Permission denied'):
        cli.check_folder(tmp_path / 'closed/sub')
    with pytest.raises(ValueError, match='Permission denied'):
        cli.check_folder(tmp_path / 'closed')


def test_looking_whether_a_folder_can_be_written_to_leaves_nothing(tmp_path):
    cli.check_folder(tmp_path / 'new/deep')
    assert list((tmp_path / 'new/deep').iterdir()) == []


# PyTorch files.  That pickled code does not run is shown in torch_files_test.


def refused_tensors(path):
    with pytest.raises(torch_files.TorchFileError) as caught:
        torch_files.read_tensors(path)
    return one_line(caught)


def torch_zip(path, pickled, method=zipfile.ZIP_STORED, **records):
    with zipfile.ZipFile(path, 'w', method) as file:
        file.writestr('m/data.pkl', pickled)
        for name, content in records.items():
            file.writestr(f'm/{name}', content)
    return path


# A tuple around a tuple, and so on.  Hashing it overflows the stack of C.
DEEP = b'\x80\x02}()' + 300_000 * b'\x85' + b'K\x00u.'


@pytest.mark.parametrize('make', [
    lambda path: torch_zip(path, DEEP),
    lambda path: torch_zip(path, DEEP, **{'constants.pkl': b''}),
    lambda path: path.write_bytes(DEEP)])
def test_pickle_nested_deeper_than_the_stack(tmp_path, make):
    make(tmp_path / 'model.pt')
    assert 'nested over 500 deep' in refused_tensors(tmp_path / 'model.pt')


@pytest.mark.parametrize('records', [{}, {'constants.pkl': b''}])
def test_pickle_with_an_absurd_memo(tmp_path, records):
    # The C unpickler would fill 64 GiB for the object of this number.
    torch_zip(tmp_path / 'model.pt', b'\x80\x02}r\xf0\xff\xff\xff.', **records)
    assert 'refused' in refused_tensors(tmp_path / 'model.pt')


def test_torch_file_that_is_a_zip_bomb(tmp_path):
    path = torch_zip(tmp_path / 'model.pt', b'\x80\x02}.', zipfile.ZIP_DEFLATED,
                     **{'data/0': bytes(40 * 2**20)})
    assert os.path.getsize(path) < 2**20
    assert 'far more than the file can hold' in refused_tensors(path)


@pytest.mark.parametrize('method', [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
@pytest.mark.parametrize('records', [{}, {'constants.pkl': b''}])
def test_torch_file_whose_pickle_expands(tmp_path, records, method):
    """It claims a hundred bytes: no more are expanded."""
    pickled = b'\x80\x02}' + 64 * 2**20 * b'0' + b'.'
    path = torch_zip(tmp_path / 'model.pt', pickled, method, **records)
    with zipfile.ZipFile(path, 'a') as file:
        file.getinfo('m/data.pkl').file_size = 100
        file.writestr('m/other', b'')   # has the directory written again
    tracemalloc.start()
    try:
        refused_tensors(path)
        assert tracemalloc.get_traced_memory()[1] < 2 * 2**20
    finally:
        tracemalloc.stop()


def test_many_views_of_one_tensor(tmp_path):
    base = torch.zeros(400, 400)
    torch.save({f'w{i}': base.t() for i in range(50)}, tmp_path / 'model.pt')
    assert 'its 50 tensors would take' in refused_tensors(tmp_path / 'model.pt')
    # Tied weights are not many.
    torch.save({'a': base, 'b': base.t()}, tmp_path / 'tied.pt')
    assert len(torch_files.read_tensors(tmp_path / 'tied.pt')) == 2


def test_torchscript_reads_a_shared_storage_once(tmp_path, monkeypatch):
    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a = torch.nn.Parameter(torch.ones(8))
            self.b = self.a

        def forward(self, x):
            return x + self.a + self.b

    torch.jit.script(Tied()).save(str(tmp_path / 'model.pt'))
    reads = []
    opened = zipfile.ZipFile.open
    monkeypatch.setattr(zipfile.ZipFile, 'open', lambda file, info: (
        reads.append(info.filename) or opened(file, info)))
    tensors = torch_files.read_tensors(tmp_path / 'model.pt')
    assert set(tensors) == {'a', 'b'}
    assert sum('/data/' in name for name in reads) == 1


def test_names_in_messages_about_torch_files(tmp_path):
    path = write(tmp_path / 'new\nline\x1b.pt', b'')
    assert r'new\nline\x1b.pt is empty' in refused_tensors(path)


def test_pickled_code_in_the_place_of_a_torchscript_model(tmp_path):
    created = tmp_path / 'created'
    torch.save({'x': Touches(created)}, tmp_path / 'new.pt')
    torch.save({'x': Touches(created)}, tmp_path / 'old.pt',
               _use_new_zipfile_serialization=False)
    write(tmp_path / 'bare.pt', pickle.dumps(Touches(created)))
    for path in sorted(tmp_path.glob('*.pt')):
        with pytest.raises(ValueError) as caught:
            painters.from_torchscript(str(path), 'iopaint_migan', R)
        one_line(caught, str(path), 'not a TorchScript file')
        with pytest.raises(torch_files.TorchFileError):
            from_torch.convert(str(path), 'migan')
        assert not created.exists()
    pickle.loads((tmp_path / 'bare.pt').read_bytes())
    assert created.exists()


class Writes(torch.nn.Module):
    """Writes a file when it runs."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def forward(self, x):
        torch.save(x, self.path)
        return x[:, 1:]


class Reads(torch.nn.Module):
    """Reads, and could map for writing, any file."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def forward(self, x):
        return x[:, 1:] + torch.from_file(self.path, False, 1).sum()


@pytest.mark.parametrize('module', [Writes, Reads])
def test_torchscript_that_opens_files_is_refused_before_it_is_loaded(
        tmp_path, module, monkeypatch):
    target = tmp_path / 'target'
    path = str(tmp_path / 'model.pt')
    torch.jit.script(module(str(target))).save(path)
    with monkeypatch.context() as patch:
        patch.setattr(torch.jit, 'load', never)
        with pytest.raises(ValueError) as caught:
            painters.from_torchscript(path, 'iopaint_migan', R)
    one_line(caught, path, 'refused, its code opens files')
    # The payload is live.
    if module is Writes:
        torch.jit.load(path)(torch.zeros(1, 4, R, R))
        assert target.exists()


@pytest.mark.parametrize('code, found', [
    ('x = torch.save(y, "f")', True), ('ops.aten.save(y)', True),
    ('torch.  # a comment\n  from_file("f")', True), ('torch . \\\n save (y)', True),
    ('getattr(torch, "save")', True), ('getattr(torch, "\\x73ave")', True),
    ('f("#") + torch.save(y)', True), ('getattr(self.layers, "0")', False),
    ('self.saved + torch.add(x, y)', False), ('torch.save_me(x)', False)])
def test_code_that_opens_files(tmp_path, code, found):
    path = save_zip(tmp_path / 'a.pt', {'m/code/__torch__.py': code.encode()})
    if found:
        with pytest.raises(ValueError, match='opens files'):
            painters.check_torchscript(path)
    else:
        painters.check_torchscript(path)


# ONNX files.


def onnx_model(path, tensor, wrap=lambda graph: graph):
    """A core model that adds a stored tensor f32[1] to three channels."""
    graph = helper.make_graph(
        [helper.make_node('Slice', ['input', 'from', 'to', 'axes'], ['rgb']),
         helper.make_node('Add', ['rgb', 'stored'], ['output'])], 'core',
        [helper.make_tensor_value_info('input', 1, [1, 4, R, R])],
        [helper.make_tensor_value_info('output', 1, [1, 3, R, R])],
        [tensor, *(numpy_helper.from_array(np.array([v]), name)
                   for name, v in (('from', 1), ('to', 4), ('axes', 1)))])
    model = helper.make_model(wrap(graph), opset_imports=[helper.make_opsetid('', 17)])
    model.ir_version = 8
    write(path, model.SerializeToString())
    return str(path)


def external(location, name='stored'):
    """f32[1] that is stored in another file."""
    tensor = onnx.TensorProto(name=name, dims=[1], data_type=1)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (('location', location), ('offset', '0'), ('length', '4')):
        tensor.external_data.add(key=key, value=value)
    return tensor


def as_constant(graph):
    """The same, its tensor in an attribute of a node."""
    (tensor,) = (t for t in graph.initializer if t.name == 'stored')
    graph.initializer.remove(tensor)
    graph.node.insert(0, helper.make_node('Constant', [], ['stored'], value=tensor))
    return graph


def as_branch(graph):
    """The same, its tensor within a branch of a node."""
    (tensor,) = (t for t in graph.initializer if t.name == 'stored')
    graph.initializer.remove(tensor)
    branch = helper.make_graph(
        [helper.make_node('Constant', [], ['inner'], value=tensor)], 'branch', [],
        [helper.make_tensor_value_info('inner', 1, [1])])
    graph.initializer.append(numpy_helper.from_array(np.array(True), 'yes'))
    graph.node.insert(0, helper.make_node(
        'If', ['yes'], ['stored'], then_branch=branch, else_branch=branch))
    return graph


@pytest.mark.parametrize('wrap', [lambda graph: graph, as_constant, as_branch])
def test_onnx_weights_from_outside_its_folder_are_refused(tmp_path, wrap, monkeypatch):
    import onnxruntime

    secret = write(tmp_path / 'secret', np.float32([0.25]).tobytes())
    folder = tmp_path / 'model'
    folder.mkdir()
    os.symlink(secret, folder / 'link')
    os.symlink(tmp_path, folder / 'up')
    monkeypatch.setattr(onnxruntime, 'InferenceSession', never)
    for place in '../secret', str(secret), 'link', 'up/secret', 'up/../secret', '', '.':
        path = onnx_model(folder / 'm.onnx', external(place), wrap)
        with pytest.raises(ValueError) as caught:
            painters.from_onnx(path)
        one_line(caught, path, 'outside the folder of the model')
    for place in 'missing', '*/_ORT_MEM_ADDR_/*':
        with pytest.raises(ValueError, match='which is missing'):
            painters.from_onnx(onnx_model(folder / 'm.onnx', external(place), wrap))


def test_onnx_weights_beside_the_model_are_read(tmp_path):
    write(tmp_path / 'weights/w.bin', np.float32([0.25]).tobytes())
    path = onnx_model(tmp_path / 'm.onnx', external('weights/w.bin'))
    painter, resolution = painters.from_onnx(path)
    ones = np.ones((1, R, R, 1), np.uint8)
    painted = painter.paint(['a'], np.full((1, R, R, 3), 255, np.uint8), ones)
    assert resolution == R
    np.testing.assert_allclose(painted, 1.25)


@pytest.mark.parametrize('content', [b'', b'no model', bytes(100), b'\x0a\xff\xff\xff'])
def test_files_that_are_no_onnx_model(tmp_path, content):
    path = write(tmp_path / 'm.onnx', content)
    with pytest.raises(ValueError) as caught:
        painters.from_onnx(str(path))
    one_line(caught, str(path))


def test_models_that_are_no_files(tmp_path):
    os.mkfifo(tmp_path / 'pipe')
    for path in tmp_path, tmp_path / 'pipe', tmp_path / 'missing':
        for read in (lambda p: painters.from_onnx(p),
                     lambda p: painters.from_torchscript(p, 'iopaint_migan')):
            with pytest.raises(ValueError, match='no such file'):
                read(str(path))
        refused_tensors(path)


# Stored parts of an evaluation.


@pytest.mark.parametrize('damage', [
    lambda content: b'', lambda content: content[:len(content) // 2],
    lambda content: b'PK\x03\x04' + content[40:],
    lambda content: content.replace(b"'<f8'", b"'|O'  ")])
def test_damaged_parts_are_computed_again(tmp_path, damage, warnings):
    parts = evaluate_tool.methods.Parts(str(tmp_path))
    parts.save('key', {'psnr': np.arange(4.0)})
    path = tmp_path / 'key.npz'
    np.testing.assert_array_equal(parts.load('key')['psnr'], np.arange(4.0))
    path.write_bytes(damage(path.read_bytes()))
    assert parts.load('key') is None
    assert len(warnings) == 1 and 'key.npz' in warnings[0]
