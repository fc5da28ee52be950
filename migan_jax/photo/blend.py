"""How what was painted meets what is known: soft edges.

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
