"""Where images come from: folders, zip files, TensorFlow Datasets, packages.

Everything is numpy and image decoders; only opening a TFDS source imports TensorFlow, to
read undecoded records.
"""

import collections
from collections.abc import Callable, Hashable, Iterator, Sequence
import copy
import importlib.util
import io
import itertools
import os
import re
import threading
import zipfile

import numpy as np
from absl import logging

from migan_jax import extras
from migan_jax.data import images
from migan_jax import storage

KINDS = ('folder', 'zip', 'tfds', 'embedded')

# More than this share of a source unreadable stops the run, but one image alone does not.
MAX_UNREADABLE = 0.01
# Records handed to a training batch beyond its own, to stand in for unreadable ones.
_SPARE = 8
# An entry of a zip file beyond this size that expands more than this many times is no
# image: their formats are compressed already.
_BOMB_BYTES, _BOMB_RATIO = 16 * 2**20, 100
# What distinguishes the random streams that one seed gives.
EPOCH_STREAM, SAMPLE_STREAM, HELD_OUT_STREAM = 0, 1, 2
# Records that TFDS hands over at a time.
_CHUNK = 16
# Undecoded bytes that TFDS training holds in memory to shuffle within.
_SHUFFLE_BYTES = 256 * 2**20


def open_source(kind: str, *, path: str = '', name: str = '', split: str = '',
                cache_mb: float = 0, max_pixels: int = images.MAX_PIXELS) -> 'Source':
    """Finds the images of a data set; reads none of them, except for 'embedded'.

    Kinds:
        'folder': files with a suffix of `images.SUFFIXES` below `path`, any case, recursive,
            sorted by relative path. Links to folders are followed, each folder once.
            Files and folders whose name starts with a dot are ignored.
        'zip': the same inside the zip file `path`, which is not extracted. Absolute
            names and ".." are refused, also those of entries that are no images.
            Entries that claim more bytes than any image of `max_pixels`, or expand
            like no image does, count as unreadable.
        'tfds': the data set `name` of TensorFlow Datasets, prepared in the data
            directory `path` (local or gs://; '' is TFDS's default). With name='',
            `path` is the directory of one version of a prepared data set.
        'embedded': seven colour photographs that the packages scikit-image and
            scikit-learn carry; nothing is downloaded.

    Splits, '' being everything:
        'folder', 'zip': a sub-folder ('train', 'val/indoor'), a range of the sorted
            list ('[:10000]', '[10%:]', bounds as in Python, percentages rounded down),
            or both ('train[10000:]').
        'tfds': as in TFDS ('train', 'train[:10%]'); '' is all splits together.
        'embedded': 'train', the left 70 % of each photograph's width; 'test', square
            tiles of the remaining strip (side: its width, stride: half of it), which
            shares no pixel with 'train'; '' whole photographs. A range may follow.

    Args:
        cache_mb: decoded images are kept in memory until they fill this many MiB
            ('embedded' is always kept).
        max_pixels: larger images count as unreadable.

    Returns:
        A source: `len(source)` images, `source.unreadable` {name: reason} of those
        found unreadable so far. Every kind but 'tfds' also has `source.names`, stable
        strings, and `source.read(i) -> u8[H, W, 3]`, which raises `UnreadableImage`.

    Raises:
        ValueError: unknown kind or split, nothing there, not prepared (TFDS), a folder or
            a zip file on Cloud Storage.
        ModuleNotFoundError: the package that 'tfds' or 'embedded' needs is missing.
    """
    if kind != 'tfds' and (error := storage.only_on_disk('path', path)):
        raise ValueError(error)
    if kind == 'folder':
        return FolderSource(path, split, cache_mb, max_pixels)
    if kind == 'zip':
        return ZipSource(path, split, cache_mb, max_pixels)
    if kind == 'tfds':
        return TfdsSource(name, path, split, cache_mb, max_pixels)
    if kind == 'embedded':
        return EmbeddedSource(split, cache_mb)
    raise ValueError(
        f'unknown data source {kind!r}, expected one of {", ".join(KINDS)}')


def random_stream(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


class _Source:
    """What every source has: a cache, and an account of what could not be read.

    The batch functions see images as *records*, whose form is the source's own:
    `train_records` and `eval_records` give them in order, `name_of` and `load` take
    them.
    """

    def __init__(self, where: str, cache_mb: float) -> None:
        self.where = where
        self.unreadable = {}
        self._cache = {}
        self._cache_bytes_left = int(cache_mb * 2**20)
        self._lock = threading.Lock()

    def cached(self, key: Hashable, make: Callable[[], np.ndarray]) -> np.ndarray:
        """`make()`, an array, kept under `key` while the budget lasts."""
        value = self._cache.get(key)
        if value is None:
            value = make()
            with self._lock:
                if key not in self._cache and value.nbytes <= self._cache_bytes_left:
                    value.setflags(write=False)
                    self._cache[key] = value
                    self._cache_bytes_left -= value.nbytes
        return value

    def note_unreadable(self, name: str, error: Exception) -> None:
        """Warns once for each image; raises ValueError when there are too many."""
        with self._lock:
            new = name not in self.unreadable
            self.unreadable[name] = str(error)
            reasons = list(self.unreadable.values())
        if new:
            logging.warning('skipped, %d of %d images unreadable so far: %s',
                            len(reasons), len(self), error)
        if len(reasons) > max(MAX_UNREADABLE * len(self), min(1, len(self) - 1)):
            shown = '\n  '.join(reasons[:50])
            more = f'\n  and {len(reasons) - 50} more' if len(reasons) > 50 else ''
            raise ValueError(
                f'{self.where}: {len(reasons)} of {len(self)} images are unreadable, '
                f'more than {MAX_UNREADABLE:.0%}; repair or remove them:\n  '
                f'{shown}{more}')


class _IndexedSource(_Source):
    """Images that can be read in any order; a record is an index into `names`."""

    def __init__(self, where: str, names: Sequence[str], cache_mb: float) -> None:
        super().__init__(where, cache_mb)
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    def part(self, split: str) -> '_IndexedSource':
        """A source of some of these images, see `open_source`; nothing is listed anew."""
        return self.only(_select(self.names, split, self.where))

    def only(self, names: Sequence[str]) -> '_IndexedSource':
        """A source of these names among its own."""
        part = copy.copy(self)
        part.names = names
        part.unreadable, part._cache, part._lock = {}, {}, threading.Lock()
        return part

    def read(self, i: int) -> np.ndarray:
        """Image i, decoded in full: u8[H, W, 3]. Raises `UnreadableImage`."""
        return self.load(i, min_side=0)

    def name_of(self, record: int) -> str:
        return self.names[record]

    def train_records(self, *, seed: int, start_batch: int, batch_size: int, host_index: int,
                      host_count: int) -> Iterator[list[int]]:
        permutations = {}
        for batch in itertools.count(start_batch):
            first = (batch * host_count + host_index) * batch_size
            epochs, places = np.divmod(
                np.arange(first, first + batch_size + _SPARE), len(self))
            permutations = {
                int(epoch): permutations[epoch] if epoch in permutations else
                random_stream(seed, EPOCH_STREAM, int(epoch)).permutation(len(self))
                for epoch in np.unique(epochs)}
            yield [int(permutations[epoch][place])
                   for epoch, place in zip(epochs, places)]

    def eval_records(self, count: int, host_index: int, host_count: int) -> Iterator[int]:
        return iter(range(host_index, count, host_count))


class FolderSource(_IndexedSource):
    """See `open_source`."""

    def __init__(self, path: str, split: str, cache_mb: float, max_pixels: int) -> None:
        self._path = os.path.expanduser(path)
        self._max_pixels = max_pixels
        where = f'folder {storage.shown(self._path)}'
        if not os.path.isdir(self._path):
            raise ValueError(
                f'{where}: no such folder; set path to a folder of images')
        names = _select(list(images.walk(self._path)), split, where)
        super().__init__(where, names, cache_mb)

    def load(self, record: int, min_side: int) -> np.ndarray:
        return images.decode(os.path.join(self._path, self.names[record]),
                             max_pixels=self._max_pixels, min_side=min_side)


class ZipSource(_IndexedSource):
    """See `open_source`. Threads share one open file."""

    def __init__(self, path: str, split: str, cache_mb: float, max_pixels: int) -> None:
        self._path = os.path.expanduser(path)
        self._max_pixels = max_pixels
        where = f'zip {storage.shown(self._path)}'
        if not os.path.isfile(self._path):
            raise ValueError(f'{where}: cannot open it (no such file)')
        try:
            self._zip = zipfile.ZipFile(self._path)
        except Exception as error:
            # A damaged directory trips zipfile's parser anywhere: BadZipFile, OSError,
            # struct.error, NotImplementedError, UnicodeDecodeError and more.
            raise ValueError(f'{where}: cannot open it ({type(error).__name__}: '
                             f'{storage.shown(str(error))})') from error
        self._zip_lock = threading.Lock()
        members = [name for name in self._zip.namelist()
                   if name and not name.endswith('/')]
        # Nothing is extracted here, but names become those of masks and results.
        outside = sorted({m for m in members if _leads_outside(m)})
        if outside:
            raise ValueError(
                f'{where}: {len(outside)} entries have absolute names or ".." in them: '
                f'{", ".join(storage.shown(m) for m in outside[:5])}; pack the folder '
                'again with names relative to it')
        super().__init__(where, _select(members, split, where), cache_mb)

    def load(self, record: int, min_side: int) -> np.ndarray:
        name = f'{self._path}:{self.names[record]}'
        return images.decode(
            io.BytesIO(self._bytes(self.names[record], storage.shown(name))), name,
            max_pixels=self._max_pixels, min_side=min_side)

    def _bytes(self, member, name):
        info = self._zip.getinfo(member)
        size = info.file_size
        # PNG with 16 bits in four channels, not compressed.
        if size > 8 * self._max_pixels:
            raise images.UnreadableImage(
                f'{name}: {size:,} bytes, too many for an image of '
                f'{self._max_pixels:,} pixels; remove it or raise data.max_pixels')
        if size > _BOMB_BYTES and size > _BOMB_RATIO * info.compress_size:
            raise images.UnreadableImage(
                f'{name}: {info.compress_size:,} bytes that expand to {size:,}, as no '
                'image does; remove it')
        # Only with these two does zipfile never expand more than it is asked for.
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise images.UnreadableImage(
                f'{name}: compression method {info.compress_type}; pack it again, '
                'stored or deflated')
        try:
            # zipfile locks each read of the shared file, but not its count of open
            # members.
            with self._zip_lock:
                file = self._zip.open(info)
            try:
                # Not read(): that would expand all there is before it compares with
                # what the directory claims. One byte more, so that the end is reached
                # and the checksum compared.
                return file.read(size + 1)
            finally:
                with self._zip_lock:
                    file.close()
        except Exception as error:
            # Damaged or encrypted: BadZipFile, zlib.error, RuntimeError,
            # NotImplementedError, OSError.
            raise images.UnreadableImage(
                f'{name}: cannot read it ({type(error).__name__}: '
                f'{storage.shown(str(error))})') from error


def _leads_outside(member):
    """Whether a zip entry's name is absolute or has "..", on any operating system."""
    parts = re.split(r'[/\\]', member)
    return parts[0] == '' or '..' in parts or re.match(r'[A-Za-z]:', member) is not None


class EmbeddedSource(_IndexedSource):
    """See `open_source`."""

    _FILES = (
        ('skimage', 'scikit-image', 'data',
         ('astronaut.png', 'chelsea.png', 'coffee.png', 'rocket.jpg',
          'motorcycle_left.png')),
        ('sklearn', 'scikit-learn', 'datasets/images', ('china.jpg', 'flower.jpg')),
    )

    def __init__(self, split: str, cache_mb: float) -> None:
        where = 'embedded photographs'
        base, bounds = _parse_split(split, where)
        if base not in ('', 'train', 'test'):
            raise ValueError(f'{where}: no split {base!r}, expected train, test, or an '
                             'empty string for whole photographs')
        arrays = {}
        for stem, photograph in self._photographs():
            cut = int(0.7 * photograph.shape[1])
            if base == '':
                arrays[stem] = photograph
            elif base == 'train':
                arrays[stem] = photograph[:, :cut].copy()
            else:
                strip = photograph[:, cut:]
                height, side = strip.shape[:2]
                for i, top in enumerate(range(0, height - side + 1, side // 2)):
                    arrays[f'{stem}/{i}'] = strip[top:top + side].copy()
        names = _take_range(list(arrays), bounds)
        if not names:
            raise ValueError(f'{where}: split {split!r} selects nothing of '
                             f'{len(arrays)} images')
        self._arrays = [arrays[name] for name in names]
        for array in self._arrays:
            array.setflags(write=False)
        super().__init__(where, names, max(cache_mb, 64))

    def _photographs(self):
        for module, package, folder, files in self._FILES:
            spec = importlib.util.find_spec(module)
            if spec is None:
                raise extras.missing(
                    'train', "The 'embedded' source, for its photographs,", package)
            root = spec.submodule_search_locations[0]
            for file in files:
                yield (os.path.splitext(file)[0],
                       images.decode(os.path.join(root, folder, file)))

    def load(self, record: int, min_side: int) -> np.ndarray:
        return self._arrays[record]


class TfdsSource(_Source):
    """See `open_source`. A record is (name, undecoded bytes), read in sequence.

    The name is the record's TFDS id, which stays the same as long as the data set is
    not prepared again with another number of shards.
    """

    def __init__(self, name: str, path: str, split: str, cache_mb: float, max_pixels: int
                 ) -> None:
        super().__init__(f'TFDS {name or path}', cache_mb)
        with extras.needs('train', "The 'tfds' source"):
            import tensorflow_datasets as tfds
        self._tfds = tfds
        self._max_pixels = max_pixels
        self._split = split or 'all'
        try:
            self._builder = (
                tfds.builder(name, data_dir=path or None) if name
                else tfds.builder_from_directory(path))
        except Exception as error:
            # DatasetNotFoundError is a ValueError; TFDS raises what a bucket's client
            # raised anew, as another class.
            if not (isinstance(error, ValueError) or storage.is_trouble(error)):
                raise
            raise ValueError(f'{self.where}: cannot open it in data directory '
                             f'{path or "(default)"!r}: {error}') from error
        splits = self._builder.info.splits
        if not splits:
            raise ValueError(
                f'{self.where}: not prepared in {self._builder.data_path}; run: '
                f'tfds build {name}' + (f' --data_dir={path}' if path else ''))
        self.sizes = sizes = {key: info.num_examples for key, info in splits.items()}
        try:
            self._size = splits[self._split].num_examples
        except (KeyError, ValueError) as error:
            raise ValueError(f'{self.where}: cannot use split {split!r} ({error}), '
                             f'it has {sizes}') from error
        if not self._size:
            raise ValueError(
                f'{self.where}: split {split!r} selects nothing, it has {sizes}')
        self._feature = self._image_feature()
        mean_bytes = max(1, self._builder.info.dataset_size // sum(sizes.values()))
        self._shuffle_size = max(1000, _SHUFFLE_BYTES // mean_bytes)

    def _image_feature(self):
        features = self._builder.info.features
        found = [key for key, feature in features.items()
                 if isinstance(feature, self._tfds.features.Image)]
        if 'image' in found:
            return 'image'
        if len(found) == 1:
            return found[0]
        raise ValueError(f'{self.where}: expected a feature image, or one feature of '
                         f'type Image, but it has {sorted(features)}, images: {found}')

    def __len__(self) -> int:
        return self._size

    def name_of(self, record: tuple[str, bytes]) -> str:
        return record[0]

    def load(self, record: tuple[str, bytes], min_side: int) -> np.ndarray:
        name, data = record
        return images.decode(io.BytesIO(data), f'{self.where}: {name}',
                             max_pixels=self._max_pixels, min_side=min_side)

    def train_records(self, *, seed: int, start_batch: int, batch_size: int, host_index: int,
                      host_count: int) -> Iterator[list[tuple[str, bytes]]]:
        per_epoch = self._size // host_count
        if not per_epoch:
            raise ValueError(f'{self.where}: {self._size} images are too few for '
                             f'{host_count} hosts')
        split = self._tfds.even_splits(
            self._split, host_count, drop_remainder=True)[host_index]
        first_epoch, skip = divmod(start_batch * batch_size, per_epoch)

        def stream():
            for epoch in itertools.count(first_epoch):
                shuffle_seed = int(random_stream(seed, EPOCH_STREAM, epoch).integers(2**31))
                dataset = self._undecoded(split, shuffle_seed)
                dataset = dataset.shuffle(
                    min(per_epoch, self._shuffle_size), seed=shuffle_seed,
                    reshuffle_each_iteration=False)
                yield from self._records(
                    dataset.skip(skip if epoch == first_epoch else 0))

        window = collections.deque()
        for record in stream():
            window.append(record)
            if len(window) == batch_size + _SPARE:
                yield list(window)
                for _ in range(batch_size):
                    window.popleft()

    def eval_records(self, count: int, host_index: int, host_count: int
                     ) -> Iterator[tuple[str, bytes]]:
        dataset = self._undecoded(self._split, None).take(count)
        return self._records(dataset.shard(host_count, host_index))

    def _undecoded(self, split, shuffle_seed):
        tfds = self._tfds
        config = tfds.ReadConfig(
            add_tfds_id=True, try_autocache=False, enable_ordering_guard=False,
            interleave_cycle_length=16, shuffle_seed=shuffle_seed,
            shuffle_reshuffle_each_iteration=False)
        config.options.deterministic = True
        return self._builder.as_dataset(
            split=split, shuffle_files=shuffle_seed is not None, read_config=config,
            decoders=tfds.decode.PartialDecoding(
                {self._feature: True},
                decoders={self._feature: tfds.decode.SkipDecoding()}))

    def _records(self, dataset):
        # Handed over one by one, records would cost more time than their pixels.
        for chunk in dataset.batch(_CHUNK).prefetch(2).as_numpy_iterator():
            for name, data in zip(chunk['tfds_id'], chunk[self._feature]):
                yield name.decode(), data


# What `open_source` finds.
Source = FolderSource | ZipSource | EmbeddedSource | TfdsSource

_SPLIT = re.compile(r'([^\[\]]*)(?:\[(-?\d+%?)?:(-?\d+%?)?\])?')


def _parse_split(split, where):
    """'name[a:b]' -> ('name', ('a', 'b')); what is missing is '' or None."""
    match = _SPLIT.fullmatch(split)
    if match is None:
        raise ValueError(
            f'{where}: cannot read split {split!r}, expected a sub-folder and / or a '
            "range, as in 'train', '[:10000]', 'train[10%:]'")
    return match[1].strip('/'), (match[2], match[3])


def _take_range(names, bounds):
    def position(bound):
        if bound is None:
            return None
        if bound.endswith('%'):
            return len(names) * int(bound[:-1]) // 100
        return int(bound)

    return names[position(bounds[0]):position(bounds[1])]


_HIDDEN = re.compile(r'(?:^|/)(?:\.|__MACOSX/|@eaDir/)')


def _select(files, split, where):
    """The images among `files` that `split` names, sorted."""
    # A set, since a zip may list a name twice.
    found = sorted({f for f in files
                    if f.lower().endswith(images.SUFFIXES) and not _HIDDEN.search(f)})
    if not found:
        others = collections.Counter(
            os.path.splitext(f)[1].lower() or 'no suffix' for f in files
            if not _HIDDEN.search(f))
        raise ValueError(f'{where}: no images ({", ".join(images.SUFFIXES)}); it has '
                         + _listing(others, 'no files'))
    others = images.other_kinds(f for f in files if not _HIDDEN.search(f))
    if others:
        logging.warning('%s: files that are no images are left out: %s', where, others)
    base, bounds = _parse_split(split, where)
    chosen = _take_range(
        [f for f in found if f.startswith(f'{base}/')] if base else found, bounds)
    if not chosen:
        folders = collections.Counter(f.split('/')[0] for f in found if '/' in f)
        raise ValueError(
            f'{where}: split {split!r} selects none of its {len(found)} images; its '
            'sub-folders: ' + _listing(folders, 'none'))
    return chosen


def _listing(counter, empty):
    first = ', '.join(
        f'{storage.shown(key)} ({n})' for key, n in sorted(counter.items())[:50])
    return (first + (', ...' if len(counter) > 50 else '')) or empty
