"""How what was painted meets what is known: soft edges and grain.

A mask has 1 (or True) = known, 0 (or False) = hole.
"""

from etils import epy
import numpy as np

# Importing it takes a fifth of a second, and squashed pictures do without it.
with epy.lazy_imports():
    from scipy import ndimage

# sRGB levels in linear light.
_LEVELS = np.arange(256, dtype=np.float32) / 255
_LINEAR = np.where(_LEVELS <= .04045, _LEVELS / 12.92,
                   ((_LEVELS + .055) / 1.055) ** 2.4).astype(np.float32)
# Pixels round a hole in which the grain of the surroundings is measured.
_RING = 24
# A grain that is stronger than this, in levels, is texture and no grain.
_MOST_GRAIN = 12.


def to_linear(levels: np.ndarray) -> np.ndarray:
    """sRGB, 0 to 255, between levels too -> f32, linear light, 0 to 1."""
    return np.interp(levels, np.arange(256), _LINEAR).astype(np.float32)


def from_linear(light: np.ndarray) -> np.ndarray:
    """The inverse of `to_linear`: f32, 0 to 255."""
    light = np.clip(light, 0, 1)
    return (255 * np.where(light <= .0031308, light * 12.92,
                           1.055 * light ** (1 / 2.4) - .055)).astype(np.float32)


def feathered(hole: np.ndarray, width: float) -> np.ndarray:
    """Weights of what was painted: 1 in the hole, falling to 0 outside of it.

    Args:
      hole: bool[H, W].
      width: pixels outside the hole in which they fall; 0 has a hard edge.

    Returns:
      f32[H, W], exactly 0 at `width` + 1 pixels from the hole and beyond.
    """
    if width <= 0 or not hole.any():
        return hole.astype(np.float32)
    distance = ndimage.distance_transform_edt(~hole)
    return np.clip(1 - distance / (width + 1), 0, 1).astype(np.float32)


def mix(picture: np.ndarray, painted: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Mixes in linear light: a soft edge is then as light as its two sides.

    Args:
      picture: u8 or f32 [H, W, 3], sRGB, 0 to 255.
      painted: f32[H, W, 3], likewise.
      weight: f32[H, W] of `painted`.

    Returns:
      f32[H, W, 3]; exactly `painted` or `picture` where the weight is 1 or 0.
    """
    between = (weight > 0) & (weight < 1)
    result = np.where(weight[..., None] > 0, painted, picture).astype(np.float32)
    share = weight[between][:, None]
    result[between] = from_linear(
        to_linear(painted[between]) * share + to_linear(picture[between]) * (1 - share))
    return result


def grain_of(levels: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Standard deviation of the grain, per channel, in levels.

    What a 3 x 3 Gaussian leaves, in the quieter half of the pixels, so that edges and
    texture do not count as grain.

    Args:
      levels: f32[H, W, 3].
      where: bool[H, W], pixels that are measured.

    Returns:
      f32[3]; 0 where fewer than 64 pixels can be measured.
    """
    if np.count_nonzero(where) < 64:
        return np.zeros(3, np.float32)
    rest = _high(levels)
    # Local energy, of measured pixels only.
    energy = ndimage.uniform_filter(rest.mean(-1) ** 2 * where, 7)
    energy = (energy / np.maximum(
        ndimage.uniform_filter(where.astype(np.float32), 7), 1e-6))[where]
    quiet = rest[where][energy <= np.median(energy)]
    # The Gaussian takes a part of white noise away; its variance becomes 1 - 2 / 4 + 9 / 64.
    return (quiet.std(0) / np.sqrt(1 - .5 + 9 / 64)).astype(np.float32)


def with_grain(painted: np.ndarray, picture: np.ndarray, known: np.ndarray,
               rng: np.random.Generator) -> np.ndarray:
    """Adds the grain that the surroundings have and the painting lacks.

    Args:
      painted: f32[H, W, 3], 0 to 255.
      picture: u8 or f32 [H, W, 3].
      known: bool[H, W].
      rng: of the grain.

    Returns:
      f32[H, W, 3], changed in the hole only.
    """
    hole = ~known
    ring = known & (ndimage.distance_transform_edt(known) <= _RING)
    # Pixels whose 3 x 3 neighbourhood is known.
    ring &= ndimage.binary_erosion(known, _SQUARE, border_value=1)
    inside = ndimage.binary_erosion(hole, _SQUARE, border_value=1)
    there = grain_of(np.asarray(picture, np.float32), ring)
    here = grain_of(painted, inside if inside.any() else hole)
    missing = np.sqrt(np.maximum(there ** 2 - here ** 2, 0))
    missing = np.minimum(missing, _MOST_GRAIN)
    noise = rng.standard_normal((np.count_nonzero(hole), 3), np.float32)
    # Grain of neighbouring channels is alike, as demosaicing leaves it.
    noise = np.float32(.8 * np.sqrt(3)) * noise.mean(-1, keepdims=True) + (
        np.float32(.6) * noise)
    result = painted.copy()
    result[hole] += noise * missing
    return result


_SQUARE = np.ones((3, 3), bool)


def _high(levels):
    smooth = levels
    for axis in (0, 1):
        smooth = ndimage.convolve1d(smooth, [.25, .5, .25], axis, mode='nearest')
    return levels - smooth
