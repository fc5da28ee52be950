"""How far an exported generator is from the one it was made of.

Mask polarity: 1 (255, white) = known, 0 = hole.
"""

from collections.abc import Callable, Sequence
import math
import os
from typing import Any, NamedTuple

import ml_collections
import numpy as np
from PIL import Image

from migan_jax.data import images as image_files
from migan_jax.data import mask_files
from migan_jax import inpaint
from migan_jax.model import build
from migan_jax.model import io as model_io


class Picture(NamedTuple):
    """u8[H, W, 3] and its mask, bool[H, W], True = known."""
    image: np.ndarray
    known: np.ndarray


def random_pictures(resolution: int, count: int = 2) -> list[Picture]:
    """Noise with rectangular holes, R x R."""
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(count):
        image = rng.integers(0, 256, (resolution, resolution, 3), np.uint8)
        known = np.ones((resolution, resolution), bool)
        (top, left), (height, width) = rng.integers(0, resolution // 2, (2, 2))
        known[top:top + height + 1, left:left + width + 1] = False
        pictures.append(Picture(image, known))
    return pictures


def extreme_pictures(resolution: int) -> list[Picture]:
    """Flat colours, chequers, and holes of half and all of the picture, R x R."""
    whole = np.ones((resolution, resolution), bool)
    corners = np.indices((2, 2, 2)).reshape(3, -1).T   # of the RGB cube
    images = [np.broadcast_to(corner, (*whole.shape, 3)) for corner in corners]
    rows, columns = np.indices(whole.shape)
    for size in (1, resolution // 8):
        chequer = (rows // size + columns // size) % 2
        images.append(np.repeat(chequer[..., None], 3, -1))
    pictures = [Picture((255 * image).astype(np.uint8), whole) for image in images]
    white = pictures[len(corners) - 1].image
    half = columns < resolution // 2
    return [*pictures, Picture(white, half), Picture(white, ~whole)]


def odd_pictures(resolution: int) -> list[Picture]:
    """Pictures of sizes other than R x R, for the pipeline."""
    rng = np.random.default_rng(1)
    pictures = []
    for height, width in ((resolution + 37, resolution // 2 + 1),
                          (2 * resolution + 3, 3 * resolution)):
        image = rng.integers(0, 256, (height, width, 3), np.uint8)
        known = np.ones((height, width), bool)
        known[height // 3:height // 2, width // 4:width // 2] = False
        pictures.append(Picture(image, known))
    return pictures


def read_pictures(images: os.PathLike | str, masks: os.PathLike | str) -> list[Picture]:
    """The pictures of two files or folders.

    Args:
      images: path.
      masks: path; white = known.

    Raises:
      ValueError: nothing there, unreadable, or sizes that differ.
    """
    pictures = []
    for _, image, mask in mask_files.match(images, masks)[0]:
        known, _ = mask_files.read(mask)
        picture = Picture(image_files.decode(image), known)
        if picture.image.shape[:2] != picture.known.shape:
            raise ValueError(
                f'{mask} has the shape {list(picture.known.shape)}, {image} '
                f'{list(picture.image.shape[:2])}: masks must have the size of the '
                'image.')
        pictures.append(picture)
    return pictures


def squash(picture: Picture, resolution: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture at R x R as `inpaint.inpaint_resize` shows it to the model.

    Returns:
      image: f32[R, R, 3] in [-1, 1].
      mask: f32[R, R, 1], 1 = known.
    """
    size = (resolution, resolution)
    image = Image.fromarray(picture.image).resize(size, Image.Resampling.BICUBIC)
    known = Image.fromarray(picture.known.astype(np.uint8)).resize(
        size, Image.Resampling.NEAREST)
    return (model_io.from_uint8(np.asarray(image)),
            np.asarray(known).astype(np.float32)[..., None])


def model_inputs(pictures: Sequence[Picture], resolution: int) -> np.ndarray:
    """The generator's inputs: f32[N, R, R, 4]."""
    return np.stack([model_io.model_input(*squash(p, resolution)) for p in pictures])


def network_inputs(config: ml_collections.ConfigDict, x: np.ndarray) -> list[np.ndarray]:
    """All that a network takes with x: for Co-Mod-GAN also z, the same in every call.

    Args:
      config: ConfigDict.
      x: f32[N, R, R, 4].

    Returns:
      [x] or [x, f32[N, z_dim]].
    """
    if not build.is_comodgan(config):
        return [x]
    size = len(x), config.model.comodgan.z_dim
    return [x, np.random.default_rng(0).standard_normal(size, np.float32)]


def decibels(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> float | None:
    """PSNR of two lists of u8 pictures together; None if they are equal."""
    errors = [np.square(x.astype(np.float64) - y).mean() for x, y in zip(a, b)]
    mean = sum(errors) / len(errors)
    return 10 * math.log10(255**2 / mean) if mean else None


def differences(reference: Callable[[np.ndarray], np.ndarray],
                generate: Callable[[np.ndarray], np.ndarray], pictures: Sequence[Picture],
                resolution: int, options: Any = None) -> dict[str, float | None]:
    """Compares two generators.

    Args:
      reference, generate: f32[N, R, R, 4] -> f32[N, R, R, 3].
      pictures: list of `Picture`.
      resolution: R.
      options: not read.

    Returns:
      dict: largest and mean difference of the outputs, PSNR between the composites as
      pictures (None if equal).

    Raises:
      ValueError: `generate` gives another shape.
    """
    x = model_inputs(pictures, resolution)
    expected, actual = reference(x), generate(x)
    if actual.shape != expected.shape:
        raise ValueError(f'the file gives {list(actual.shape)} for {list(x.shape)}; '
                         f'expected {list(expected.shape)}.')
    error = np.abs(actual.astype(np.float64) - expected)
    composites = [[], []]
    for i, picture in enumerate(pictures):
        image, mask = squash(picture, resolution)
        for outputs, results in zip((expected, actual), composites):
            whole = model_io.composite(outputs[i], image, mask)
            results.append(model_io.to_uint8(whole))
    return {'max': float(error.max()), 'mean': float(error.mean()),
            'composite_psnr_db': decibels(*composites)}


def any_size_pictures(resolution: int) -> list[Picture]:
    """Random pictures, R x R and others."""
    return [*random_pictures(resolution), *odd_pictures(resolution)]


def composite_differences(reference: Callable[[np.ndarray], np.ndarray],
                          paint: Callable[[np.ndarray, np.ndarray], np.ndarray],
                          pictures: Sequence[Picture], resolution: int,
                          options: Any = None) -> dict[str, float | None]:
    """`differences` of a file that takes R x R pictures and gives whole ones.

    Args:
      reference: as for `differences`.
      paint: u8[R, R, 3], u8[R, R] (255 = known) -> f32[R, R, 3], levels.
      pictures, resolution, options: as for `differences`.

    Returns:
      dict as of `differences`, of the clipped composites, in levels / 127.5.
    """
    errors, expected, actual = [], [], []
    for picture in pictures:
        image, mask = squash(picture, resolution)
        y, = reference(model_io.model_input(image, mask)[None])
        wanted = 127.5 * (model_io.composite(y, image, mask).clip(-1, 1) + 1)
        levels = paint(np.round(127.5 * (image + 1)).astype(np.uint8),
                       (255 * mask[..., 0]).astype(np.uint8))
        errors.append(np.abs(levels - wanted) / 127.5)
        for value, results in ((wanted, expected), (levels, actual)):
            results.append(np.round(value).astype(np.uint8))
    return {'max': float(max(e.max() for e in errors)),
            'mean': float(np.mean([e.mean() for e in errors])),
            'composite_psnr_db': decibels(expected, actual)}


def pipeline_differences(reference: Callable[[np.ndarray], np.ndarray],
                         inpaint_picture: Callable[[np.ndarray, np.ndarray], np.ndarray],
                         pictures: Sequence[Picture], resolution: int,
                         options: Any) -> dict[str, float | None]:
    """`differences` between `inpaint.inpaint_pipeline` and a file that does the same.

    Args:
      reference: as for `differences`.
      inpaint_picture: u8[H, W, 3], u8[H, W] (255 = known) -> u8[H, W, 3].
      pictures, resolution: as for `differences`.
      options: `upstream_crop` says whether the file stretches crops.

    Returns:
      dict as of `differences`, of finished pictures, in levels / 127.5.
    """
    expected, actual = [], []
    for image, known in pictures:
        mask = np.where(known, 255, 0).astype(np.uint8)
        expected.append(inpaint.inpaint_pipeline(
            reference, image, mask, resolution, stretch=options.upstream_crop))
        actual.append(inpaint_picture(image, mask))
    errors = [np.abs(a.astype(int) - e) / 127.5 for a, e in zip(actual, expected)]
    return {'max': float(max(e.max() for e in errors)),
            'mean': float(np.mean([e.mean() for e in errors])),
            'composite_psnr_db': decibels(expected, actual)}
