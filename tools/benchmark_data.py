"""Reading images, beside TensorFlow decoding the same files and doing nothing else.

    python tools/benchmark.py --what=data --resolutions=256,512

JPEG files of R x R cut from photographs that scikit-image and scikit-learn carry, read as
a folder, a zip and a TFDS data set. By turns in one run: `batches_lib.train_batches` (read,
decode, shuffle, flip, batch) and a tf.data pipeline that reads and decodes. Images per
second and core, and the ratio of the medians. The last line is JSON.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
import contextlib
import io
import itertools
import json
import os
import pathlib
import statistics
import tempfile
import time
from typing import Any
import zipfile

from absl import flags
import numpy as np
from PIL import Image

from migan_jax.data import batches as batches_lib
from migan_jax.data import images
from migan_jax.data import sources


def jpeg_files(count: int, side: int) -> Iterator[bytes]:
    """Bytes of `count` JPEG files, side x side, quality 90."""
    source = sources.open_source('embedded')
    draw = np.random.default_rng(0)
    for i in range(count):
        square = images.random_square(source.read(i % len(source)), 0.5, draw)
        out = io.BytesIO()
        Image.fromarray(images.squash(square, side)).save(out, 'JPEG', quality=90)
        yield out.getvalue()


def prepare(folder: pathlib.Path, count: int,
            side: int) -> tuple[dict[str, dict[str, str]], list[str]]:
    """The same files as a folder, a zip and a TFDS data set.

    Returns:
      {kind: arguments of `sources.open_source`}; paths of the folder's files.
    """
    import tensorflow_datasets as tfds

    plain = folder / 'plain'
    plain.mkdir()
    for i, content in enumerate(jpeg_files(count, side)):
        (plain / f'{i:05d}.jpg').write_bytes(content)
    paths = sorted(map(str, plain.iterdir()))
    with zipfile.ZipFile(folder / 'all.zip', 'w') as archive:
        for path in paths:
            archive.write(path, os.path.basename(path))

    # Not registered: there is one for each resolution.
    class Pictures(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """The files as records."""
        VERSION = tfds.core.Version('1.0.0')

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(
                {'image': tfds.features.Image(shape=(None, None, 3),
                                              encoding_format='jpeg')}))

        def _split_generators(self, _):
            return {'train': self._generate_examples()}

        def _generate_examples(self):
            for path in paths:
                yield os.path.basename(path), {'image': path}

    tfds.disable_progress_bar()
    builder = Pictures(data_dir=folder / 'tfds')
    builder.download_and_prepare()
    return {
        'folder': dict(kind='folder', path=str(plain)),
        'zip': dict(kind='zip', path=str(folder / 'all.zip')),
        'tfds': dict(kind='tfds', path=str(builder.data_path)),
    }, paths


def ours(arguments: Mapping[str, str], resolution: int, batch_size: int,
         workers: int) -> Generator[dict[str, np.ndarray], None, None]:
    """An endless iterator of training batches."""
    source = sources.open_source(**arguments)
    return batches_lib.train_batches(source, resolution=resolution, batch_size=batch_size,
                              seed=0, workers=workers, prefetch=2 * workers)


def bare(paths: Sequence[str], batch_size: int, workers: int) -> Iterator[np.ndarray]:
    """An endless iterator of batches that TensorFlow has decoded."""
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices(paths).repeat()
    dataset = dataset.map(lambda path: tf.io.decode_jpeg(tf.io.read_file(path), 3),
                          num_parallel_calls=workers)
    options = tf.data.Options()
    options.threading.private_threadpool_size = workers
    return dataset.batch(batch_size).prefetch(2).with_options(
        options).as_numpy_iterator()


def rate(batches: Iterator, count: int, batch_size: int) -> float:
    """Images per second of the next `count` batches."""
    began = time.perf_counter()
    for _ in itertools.islice(batches, count):
        pass
    return count * batch_size / (time.perf_counter() - began)


def measure(resolution: int, count: int = 2048, timed: int = 512, batch_size: int = 16,
            repeats: int = 5, workers: int | None = None) -> Iterator[dict[str, Any]]:
    """Rates at one resolution.

    Args:
      resolution: R, also of the files.
      count: files. Of few, TFDS starts each epoch anew most of the time.
      timed: images of one timing, about.
      batch_size: images.
      repeats: timings of each, by turns.
      workers: threads; the machine's cores by default.

    Yields:
      dict: resolution, kind, images per second and core of both, their ratio.
    """
    workers = workers or os.cpu_count()
    batches = max(1, timed // batch_size)
    with tempfile.TemporaryDirectory() as folder:
        sources, paths = prepare(pathlib.Path(folder), count, resolution)
        for kind, arguments in sources.items():
            rates = {'ours': [], 'bare': []}
            plain = bare(paths, batch_size, workers)
            with contextlib.closing(
                    ours(arguments, resolution, batch_size, workers)) as full:
                for pipeline in (full, plain):   # threads started, files in memory
                    rate(pipeline, batches, batch_size)
                for _ in range(repeats):
                    rates['ours'].append(rate(full, batches, batch_size))
                    rates['bare'].append(rate(plain, batches, batch_size))
            medians = {name: statistics.median(values) for name, values in rates.items()}
            yield {'resolution': resolution, 'kind': kind, 'workers': workers,
                   'images_per_s_and_core': medians['ours'] / workers,
                   'decode_only_per_s_and_core': medians['bare'] / workers,
                   'ratio': medians['ours'] / medians['bare']}


def main(argv: Sequence[str]) -> int:
    del argv
    args = flags.FLAGS
    results = []
    for resolution in map(int, args.resolutions):
        for result in measure(resolution, repeats=args.repeats):
            results.append(result)
            print(f'{result["kind"]:8}{resolution:5}: '
                  f'{result["images_per_s_and_core"]:7.0f} images/s per core, decoding '
                  f'alone {result["decode_only_per_s_and_core"]:7.0f}, ratio '
                  f'{result["ratio"]:.2f}', flush=True)
    print(json.dumps(results))
    return 0
