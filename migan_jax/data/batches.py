"""Images of a source -> batches of u8 on the host.

Batch k of training is a function of (seed, k, host): no iterator state is stored, and
`start_batch=k` continues exactly where an interrupted run stopped.  Everything is numpy,
image decoders and threads (decoders release the interpreter lock).
"""

import collections
from collections.abc import Generator
import concurrent.futures
import functools
import itertools
from typing import Any

import numpy as np

from migan_jax.data.augmentation import augmented
from migan_jax.data import images
from migan_jax.data.sources import random_stream
from migan_jax.data.sources import SAMPLE_STREAM
from migan_jax.data.sources import Source

CROPS = ('squash', 'center', 'random')


def train_batches(source: Source, *, resolution: int, batch_size: int, seed: int,
                  start_batch: int = 0, host_index: int = 0, host_count: int = 1,
                  crop: str = 'squash', min_crop: float = 1.0, flip: bool = True,
                  augment: bool = False, workers: int = 2, prefetch: int = 4
                  ) -> Generator[dict[str, np.ndarray], None, None]:
    """Endless shuffled batches; close the iterator (or drop it) to end its threads.

    Batch k depends only on the arguments and k: each epoch's permutation is drawn from
    (seed, epoch), flip, crop and augmentation of a sample from (seed, its position).
    Epochs follow each other without a gap, so a batch may hold the end of one and the
    start of the next. With several hosts each draws its part of every global batch of
    batch_size * host_count images. From a TFDS source each host reads a fixed part of
    the records (as many as the others: up to host_count - 1 records are left out),
    shuffled anew each epoch within 256 MiB of undecoded records; `start_batch` skips
    whole epochs for free and the rest of one without decoding.

    An unreadable image is replaced by the next readable one in the same order.

    JPEG files decode at a reduced size as long as a crop is at least 2 * resolution
    long (see `images.decode`).

    Args:
        source: from `open_source`.
        resolution: R.
        batch_size: images per host.
        seed: >= 0.
        start_batch: the first batch to yield.
        host_index, host_count: this process among those that train together.
        crop: 'squash', the whole image to R x R; 'center', its central square;
            'random', a random square. All bicubic with antialiasing.
        min_crop: 'random' only: the square's side is uniform in [min_crop, 1] times
            the shorter side; one smaller than R is enlarged.
        flip: mirror horizontally with probability 1/2.
        augment: see `augmentation.augmented`.
        workers: threads, each preparing one batch at a time.
        prefetch: batches prepared ahead (at least `workers`).

    Yields:
        {'image': u8[batch_size, R, R, 3]}.

    Raises:
        ValueError: bad arguments; more than 1 % of the source unreadable.
    """
    _check(resolution=resolution, batch_size=batch_size, workers=workers,
           prefetch=prefetch)
    _check_hosts(host_index, host_count)
    if crop not in CROPS:
        raise ValueError(f'crop={crop!r}, expected one of {", ".join(CROPS)}')
    if not 0 < min_crop <= 1:
        raise ValueError(f'min_crop={min_crop}, expected 0 < min_crop <= 1')
    if seed < 0 or start_batch < 0:
        raise ValueError(
            f'seed={seed}, start_batch={start_batch}, expected both >= 0')
    smallest = min_crop if crop == 'random' else 1.0
    min_side = int(np.ceil(2 * resolution / smallest))
    groups = source.train_records(
        seed=seed, start_batch=start_batch, batch_size=batch_size,
        host_index=host_index, host_count=host_count)

    def prepare(record, rng):
        if crop != 'random':
            return _fixed_crop(source, record, crop, resolution, min_side)
        image = source.cached(
            (source.name_of(record), min_side),
            lambda: source.load(record, min_side))
        return images.squash(images.random_square(image, min_crop, rng), resolution)

    def load_batch(batch, group):
        out = np.empty((batch_size, resolution, resolution, 3), np.uint8)
        first = (batch * host_count + host_index) * batch_size
        for slot in range(batch_size):
            rng = random_stream(seed, SAMPLE_STREAM, first + slot)
            mirror = rng.random() < 0.5 and flip
            image = _first_readable(
                source, group[slot:], lambda record: prepare(record, rng))
            if augment:
                image = augmented(image, rng)
            if mirror:
                # Six times as fast as pixel by pixel, which can take longer than
                # the file's decoding.
                for channel in range(3):
                    out[slot, ..., channel] = image[:, ::-1, channel]
            else:
                out[slot] = image
        return {'image': out}

    jobs = (functools.partial(load_batch, batch, group)
            for batch, group in enumerate(groups, start_batch))
    return _run_ahead(jobs, workers, prefetch)


def eval_batches(source: Source, *, resolution: int, batch_size: int, host_index: int = 0,
                 host_count: int = 1, crop: str = 'squash', limit: int | None = None,
                 workers: int = 2, prefetch: int = 4
                 ) -> Generator[dict[str, Any], None, None]:
    """Every image once, over all hosts together, in a fixed order.

    Every host yields equally many batches. The end is padded with zeros. An image that
    is unreadable is zeros as well, keeps its name and is not valid.

    Args:
        source: from `open_source`.
        resolution: R.
        batch_size: images per host.
        host_index, host_count: this process among those that evaluate together.
        crop: 'squash' or 'center', as in `train_batches`, always from a full decode.
        limit: only the first `limit` images of the source.
        workers, prefetch: as in `train_batches`.

    Yields:
        {'image': u8[batch_size, R, R, 3], 'valid': bool[batch_size],
        'name': batch_size strings, '' where padded}.

    Raises:
        ValueError: bad arguments; more than 1 % of the source unreadable.
    """
    _check(resolution=resolution, batch_size=batch_size, workers=workers,
           prefetch=prefetch)
    _check_hosts(host_index, host_count)
    if crop not in ('squash', 'center'):
        raise ValueError(f'crop={crop!r}, expected squash or center in evaluation')
    if limit is not None and limit < 1:
        raise ValueError(f'limit={limit}, expected None or at least 1')
    count = len(source) if limit is None else min(limit, len(source))
    batches = -(-count // (host_count * batch_size))
    records = source.eval_records(count, host_index, host_count)

    def load_batch(group):
        out = np.zeros((batch_size, resolution, resolution, 3), np.uint8)
        valid = np.zeros(batch_size, bool)
        names = [''] * batch_size
        for slot, record in enumerate(group):
            names[slot] = source.name_of(record)
            try:
                out[slot] = _fixed_crop(source, record, crop, resolution, min_side=0)
                valid[slot] = True
            except images.UnreadableImage as error:
                source.note_unreadable(names[slot], error)
        return {'image': out, 'valid': valid, 'name': names}

    jobs = (functools.partial(load_batch, list(itertools.islice(records, batch_size)))
            for _ in range(batches))
    return _run_ahead(jobs, workers, prefetch)


def _check(**positive):
    for key, value in positive.items():
        if value < 1:
            raise ValueError(f'{key}={value}, expected at least 1')


def _check_hosts(host_index, host_count):
    if not 0 <= host_index < host_count:
        raise ValueError(f'host_index={host_index}, host_count={host_count}, expected '
                         '0 <= host_index < host_count')


def _fixed_crop(source, record, crop, resolution, min_side):
    """u8[R, R, 3] of a crop that never varies, so the small result is cached."""
    def make():
        image = source.load(record, min_side)
        if crop == 'center':
            image = images.center_square(image)
        return images.squash(image, resolution)

    key = (source.name_of(record), min_side, crop, resolution)
    return source.cached(key, make)


def _first_readable(source, records, prepare):
    for record in records:
        try:
            return prepare(record)
        except images.UnreadableImage as error:
            source.note_unreadable(source.name_of(record), error)
    raise ValueError(
        f'{source.where}: {len(records)} unreadable images in a row: '
        + ', '.join(images.shown(source.name_of(record)) for record in records))


def _run_ahead(jobs, workers, prefetch):
    """Runs callables on threads; yields their results, or raises, in order."""
    executor = concurrent.futures.ThreadPoolExecutor(workers, 'migan_jax_data')
    pending = collections.deque()
    try:
        for job in jobs:
            pending.append(executor.submit(job))
            if len(pending) > max(workers, prefetch):
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        # Also when the consumer closes or drops this generator.
        executor.shutdown(wait=True, cancel_futures=True)
