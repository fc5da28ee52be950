"""Evaluation: parameters and batches of held-out images -> named figures.

Always on composites (known pixels are the original's), with constant noise and
one fixed free-form mask per image name, drawn on the device.
"""

import os
from typing import Callable, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import multihost_utils
import numpy as np

from migan_jax import inpaint
from migan_jax import masks
from migan_jax.metrics.psnr import hole_psnr
from migan_jax.metrics.psnr import psnr
from migan_jax.metrics.ssim import ssim
from migan_jax.state import AXIS

# Columns of a sample grid, from left to right.
GRID_COLUMNS = ('input', 'mask', 'output', 'composite', 'original')


class Evaluation(NamedTuple):
    """What `make_evaluation` gives: the compiled step and the mask seed."""
    step: Callable
    seed: int


def mean_fill(image, mask):
    """The mean known colour in the hole: the baseline of the quickstart.

    Args:
      image: f32[B, H, W, 3].
      mask: f32[B, H, W, 1], 1 = known.

    Returns:
      f32[B, H, W, 3] composite; grey (0) where nothing is known.
    """
    known = jnp.sum(mask, (1, 2, 3), keepdims=True)
    mean = jnp.sum(image * mask, (1, 2), keepdims=True) / jnp.maximum(known, 1)
    return inpaint.composite(jnp.broadcast_to(mean, image.shape), image, mask)


def image_metrics(composite, image, mask):
    """Figures of single images.

    Args:
      composite, image: f32[B, H, W, 3] in [-1, 1].
      mask: f32[B, H, W, 1], 1 = known.

    Returns:
      {name: f32[B]}: psnr, ssim and hole_psnr (nan without a hole) in [0, 1] range,
      hole_l1 in [-1, 1] range (nan without a hole), hole_share.
    """
    unit = lambda x: jnp.clip(x, -1, 1) * 0.5 + 0.5
    hole = jnp.sum(1 - mask, (1, 2, 3))
    difference = jnp.sum(jnp.abs(composite - image) * (1 - mask), (1, 2, 3))
    return {
        'psnr': psnr(unit(composite), unit(image)),
        'ssim': ssim(unit(composite), unit(image)),
        'hole_psnr': hole_psnr(unit(composite), unit(image), mask),
        'hole_l1': difference / (3 * hole),
        'hole_share': jnp.mean(1 - mask, (1, 2, 3)),
    }


def make_evaluation(generator, *, seed, hole_range, brush_width):
    """The pmapped evaluation step of a generator.

    Args:
      generator: a `Generator` in any form.
      seed: of the masks.
      hole_range, brush_width: of `masks.free_form`.
    """
    def step(params, noise, images, mask_keys):
        image = inpaint.from_uint8(images)
        mask = masks.free_form_batch(
            jax.random.wrap_key_data(mask_keys, impl='threefry2x32'), image.shape[1],
            hole_range, brush_width=brush_width)
        output, _ = generator.apply(
            {'params': params, 'noise': noise}, inpaint.model_input(image, mask), 'const')
        composite = inpaint.composite(output, image, mask)
        figures = image_metrics(composite, image, mask)
        figures['mean_fill_hole_psnr'] = image_metrics(
            mean_fill(image, mask), image, mask)['hole_psnr']
        pictures = (image * mask, jnp.broadcast_to(mask * 2 - 1, image.shape), output,
                    composite, image)
        return figures, jnp.concatenate(
            [inpaint.to_uint8(picture) for picture in pictures], 2)

    return Evaluation(jax.pmap(step, AXIS), seed)


def _run(evaluation, params, noise, batch):
    """One batch over the local devices.

    Returns:
      {name: f32[B]} on the host, and the grid rows u8[D, B / D, R, 5 R, 3] on device.
    """
    devices = jax.local_device_count()
    shard = lambda x: x.reshape(devices, -1, *x.shape[1:])
    # Without the extension, as `tools/make_masks.py` does: the same masks.
    stems = [os.path.splitext(name)[0] for name in batch['name']]
    keys = np.stack([jax.random.key_data(masks.name_key(evaluation.seed, stem))
                     for stem in stems])
    figures, pictures = evaluation.step(
        params, noise, shard(batch['image']), shard(keys))
    return jax.tree.map(lambda x: np.asarray(x).reshape(-1), figures), pictures


def per_image(evaluation, params, noise, batches):
    """Figures of every image of this host, padding and unreadable ones left out.

    Args:
      evaluation: from `make_evaluation`.
      params, noise: replicated, in the form that the generator has.
      batches: from `data.eval_batches`, batch size divisible by local devices.

    Yields:
      (image name, {figure: float}).
    """
    for batch in batches:
        figures, _ = _run(evaluation, params, noise, batch)
        for i in np.flatnonzero(batch['valid']):
            yield batch['name'][i], {k: float(v[i]) for k, v in figures.items()}


def summarize(figures):
    """Means over images of (name, {figure: float}) pairs.

    Yields:
      (figure, mean) with nan (nothing to count) left out, then ('images', count).
    """
    figures = list(figures)
    if figures:
        for name in figures[0][1]:
            values = np.array([f[name] for _, f in figures], np.float64)
            counted = values[~np.isnan(values)]
            yield name, float(counted.mean()) if counted.size else float('nan')
    yield 'images', len(figures)


def evaluate(evaluation, params, noise, batches):
    """Figures over all hosts' images.

    Arguments as in `per_image`; every host must call it with equally many batches.

    Yields:
      (figure, mean), the same on every host; ('images', count) last.
    """
    if jax.process_count() == 1:
        yield from summarize(per_image(evaluation, params, noise, batches))
        return
    # Single values travel, not means: the sum is then in float64 on each host.
    columns, valid = [], []
    for batch in batches:
        columns.append(_run(evaluation, params, noise, batch)[0])
        valid.append(batch['valid'])
    stacked = {k: np.concatenate([c[k] for c in columns]) for k in columns[0]}
    stacked, valid = multihost_utils.process_allgather((stacked, np.concatenate(valid)))
    valid = valid.reshape(-1)
    names = list(stacked)
    rows = zip(*(stacked[name].reshape(-1)[valid] for name in names))
    yield from summarize(('', dict(zip(names, row))) for row in rows)


def sample_grid(evaluation, params, noise, batch, rows=8):
    """A picture of samples, one row each, columns as in GRID_COLUMNS.

    Args:
      batch: one batch of `data.eval_batches`.
      rows: at most so many samples.

    Returns:
      u8[rows * R, 5 * R, 3]; holes are grey in the input, black in the mask.
    """
    _, pictures = _run(evaluation, params, noise, batch)
    pictures = np.asarray(pictures)
    pictures = pictures.reshape(-1, *pictures.shape[2:])[batch['valid']][:rows]
    return pictures.reshape(-1, *pictures.shape[2:])
