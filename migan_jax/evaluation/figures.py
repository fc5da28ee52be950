"""The figures that evaluations give, a row each.

A new figure is a function in `metrics/` and a row in `FIGURES`: the evaluation during
training, `migan_jax.evaluate` and tools/evaluate.py compute and print what stands there.
Figures are always of composites, whose known pixels are the original's.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from migan_jax.evaluation import classical
from migan_jax.evaluation.metrics import lpips
from migan_jax.evaluation.metrics.bootstrap import confidence_interval
from migan_jax.evaluation.metrics.psnr import hole_psnr
from migan_jax.evaluation.metrics.psnr import psnr
from migan_jax.evaluation.metrics.ssim import ssim
from migan_jax.model import io as model_io


class Figure(NamedTuple):
    """One figure.

    Attributes:
      name: in results and on the command line.
      title: in tables.
      digits: behind the point, in tables.
      better: 'higher' or 'lower'; '' for what says nothing of quality.
      network: field of `networks.Networks` that it needs; '' for none.
      measure: (networks, composite, image, mask) -> f32[B], of single images, all
        f32[B, H, W, C] in [-1, 1], mask 1 = known; None for a figure of a whole set and
        for a classical one.
      classical: of `classical.METHODS` the one whose result is measured, whatever the
        composite; '' for all other figures.
    """
    name: str
    title: str
    digits: int
    better: str
    network: str = ''
    measure: Callable | None = None
    classical: str = ''


def mean_fill(image: jax.typing.ArrayLike, mask: jax.typing.ArrayLike) -> jax.Array:
    """The mean known colour in the hole: the least that a method should beat.

    Args:
      image: f32[B, H, W, 3].
      mask: f32[B, H, W, 1], 1 = known.

    Returns:
      f32[B, H, W, 3] composite; grey (0) where nothing is known.
    """
    known = jnp.sum(mask, (1, 2, 3), keepdims=True)
    mean = jnp.sum(image * mask, (1, 2), keepdims=True) / jnp.maximum(known, 1)
    return model_io.composite(jnp.broadcast_to(mean, image.shape), image, mask)


def _unit(x):
    """[-1, 1] -> [0, 1], clipped."""
    return jnp.clip(x, -1, 1) * 0.5 + 0.5


def _hole_psnr(networks, composite, image, mask):
    del networks
    return hole_psnr(_unit(composite), _unit(image), mask)


def _mean_fill_hole_psnr(networks, composite, image, mask):
    return _hole_psnr(networks, mean_fill(image, mask), image, mask)


def _psnr(networks, composite, image, mask):
    del networks, mask
    return psnr(_unit(composite), _unit(image))


def _ssim(networks, composite, image, mask):
    del networks, mask
    return ssim(_unit(composite), _unit(image))


def _lpips(networks, composite, image, mask):
    del mask
    return lpips.lpips(
        networks.lpips, jnp.clip(composite, -1, 1), jnp.clip(image, -1, 1))


def _hole_l1(networks, composite, image, mask):
    del networks
    difference = jnp.sum(jnp.abs(composite - image) * (1 - mask), (1, 2, 3))
    return difference / (3 * jnp.sum(1 - mask, (1, 2, 3)))


def _hole_share(networks, composite, image, mask):
    del networks, composite, image
    return jnp.mean(1 - mask, (1, 2, 3))


# PSNR of identical pictures is infinite; what counts holes is nan without one.
FIGURES = (
    Figure('hole_psnr', 'hole PSNR, dB: the model', 2, 'higher', '', _hole_psnr),
    Figure('mean_fill_hole_psnr', 'hole PSNR, dB: mean known colour', 2, '', '',
           _mean_fill_hole_psnr),
    Figure('telea_hole_psnr', 'hole PSNR, dB: Telea (OpenCV)', 2, '', classical='telea'),
    Figure('navier_stokes_hole_psnr', 'hole PSNR, dB: Navier-Stokes (OpenCV)', 2, '',
           classical='navier_stokes'),
    Figure('psnr', 'PSNR of the whole picture, dB', 3, 'higher', '', _psnr),
    Figure('ssim', 'SSIM of the whole picture', 4, 'higher', '', _ssim),
    Figure('lpips', 'LPIPS (Alex, v0.1), lower is better', 4, 'lower', 'lpips', _lpips),
    Figure('hole_l1', 'L1 in holes, range [-1, 1]', 4, 'lower', '', _hole_l1),
    Figure('hole_share', 'share of hole pixels', 4, '', '', _hole_share),
    Figure('fid', 'FID, lower is better', 2, 'lower', 'inception'),
    Figure('p_ids', 'P-IDS', 4, 'higher', 'inception'),
    Figure('u_ids', 'U-IDS', 4, 'higher', 'inception'),
)
NAMES = tuple(figure.name for figure in FIGURES)
SET_NAMES = tuple(figure.name for figure in FIGURES
                  if figure.measure is None and not figure.classical)
CLASSICAL = tuple(figure.name for figure in FIGURES if figure.classical)
# What an evaluation is compared with; the classical ones may not be there.
BASELINES = ('mean_fill_hole_psnr', *CLASSICAL)


def needing(network: str) -> tuple[str, ...]:
    """Names of the figures that need a network."""
    return tuple(figure.name for figure in FIGURES if figure.network == network)


def measure_classical(names: Collection[str], images: np.ndarray,
                      masks: np.ndarray) -> dict[str, np.ndarray]:
    """What classical methods reach, on the host.

    Args:
      names: of figures; those that are not classical are passed over.
      images: u8[B, H, W, 3].
      masks: u8[B, H, W, 1], 1 = known, 0 = hole.

    Returns:
      {name: f32[B]}; nan for an image without a hole.

    Raises:
      MissingExtra: OpenCV is not installed.
    """
    measured = {}
    for figure in FIGURES:
        if not figure.classical or figure.name not in names:
            continue
        paint = classical.METHODS[figure.classical]
        painted = np.stack([
            paint(image, mask * np.uint8(255)) for image, mask in zip(images, masks)])
        measured[figure.name] = np.asarray(_hole_psnr(
            None, model_io.from_uint8(painted), model_io.from_uint8(images),
            masks.astype(np.float32)))
    return measured


def measure(networks: Any, composite: jax.typing.ArrayLike, image: jax.typing.ArrayLike,
            mask: jax.typing.ArrayLike) -> dict[str, jax.Array]:
    """All figures of single images that can be had.

    Args:
      networks: `networks.Networks`.
      composite, image: f32[B, H, W, 3] in [-1, 1].
      mask: f32[B, H, W, 1], 1 = known, 0 = hole.

    Returns:
      {name: f32[B]}; without LPIPS where its network is absent or the pictures are
      below its least size.
    """
    small = min(image.shape[1:3]) < lpips.MIN_SIDE
    return {
        figure.name: figure.measure(networks, composite, image, mask)
        for figure in FIGURES if figure.measure is not None
        and (not figure.network or getattr(networks, figure.network) is not None)
        and not (figure.network == 'lpips' and small)}


def summarize(columns: Mapping[str, np.typing.ArrayLike], *, resamples: int = 1000
              ) -> dict[str, dict[str, Any]]:
    """Means over images, with bootstrap 95 % confidence intervals.

    What is not finite is left out of the mean: nan (nothing to count) and infinity (PSNR
    of a composite that equals its original, which one image would pass on to the mean).

    Args:
      columns: {figure: [N]}.
      resamples: of the bootstrap; 0 leaves the intervals out.

    Returns:
      {figure: {'mean', 'interval': [low, high] or None, 'images': how many counted}}.
    """
    summary = {}
    for name, values in columns.items():
        counted = np.asarray(values, np.float64)
        counted = counted[np.isfinite(counted)]
        interval = None
        if counted.size and resamples:
            interval = list(confidence_interval(counted, resamples=resamples))
        summary[name] = {
            'mean': float(counted.mean()) if counted.size else float('nan'),
            'interval': interval, 'images': int(counted.size)}
    return summary
