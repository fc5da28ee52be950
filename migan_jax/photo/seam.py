"""Fills that meet what is known: the step at a hole's edge is continued into the hole.

A mask has 1 (or True) = known, 0 (or False) = hole.
"""

from etils import epy
import numpy as np

with epy.lazy_imports():   # a fifth of a second, and squashed pictures do without
    from scipy import ndimage

# Standard deviations, in pixels of the network: of what is compared on either side of the
# edge, and along it.
_ACROSS = .7
_ALONG = 4.
# Over which the shift of a fill fades inwards, in pixels of the network.
_LENGTH = 8.
# Of Jacobi's iteration, at each level.
_PASSES = 8
_SQUARE = np.ones((3, 3), bool)


def met(painted: np.ndarray, seen: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Shifts what was painted in a hole so that it meets its surroundings.

    The step between known pixels and painted ones on either side of the edge is continued
    into the hole by a membrane that fades (as gradient-domain blending does, without the
    fading) and added. What the network painted over known pixels counts nowhere: it is
    trained for holes, and misses known colours by some levels.

    Args:
      painted: f32[H, W, 3], all that the network painted.
      seen: f32[H, W, 3], what it saw, in the same units.
      known: bool[H, W].

    Returns:
      f32[H, W, 3]: the hole shifted, and outside of it, for a soft edge, what was seen,
      shifted likewise by what is left of the step.
    """
    hole = ~known
    if known.all() or hole.all():
        return painted
    rim = hole & ndimage.binary_dilation(known, _SQUARE)
    step = _near(seen, known, _ACROSS) - _near(painted, hole, _ACROSS)
    mean = _near(step, rim, _ALONG)
    # A step that is small beside what varies along the edge is none: texture.
    spread = _near((step - mean) ** 2, rim, _ALONG)
    mean *= mean ** 2 / (mean ** 2 + spread + np.float32(1e-3))
    shift = continued(mean, rim, _LENGTH ** -2)
    left = continued(step - shift, rim)
    return np.where(known[..., None], seen - left, painted + shift)


def continued(values: np.ndarray, where: np.ndarray, fading: float = 0.) -> np.ndarray:
    """Continues values to where there are none: each the mean of its four neighbours.

    Solved coarsely, from a pyramid of means downwards.

    Args:
      values: f32[H, W, C]; those elsewhere do not matter.
      where: bool[H, W], where there is one.
      fading: 0, or 1 / length ** 2 for values that fade by e over a length in pixels.

    Returns:
      f32[H, W, C].
    """
    height, width = where.shape
    values = np.where(where[..., None], values, np.float32(0))
    if max(height, width) == 1 or where.all():
        return values
    # Means of 2 x 2, of those that have a value.
    even = ((0, height % 2), (0, width % 2))
    small = (height + 1) // 2, 2, (width + 1) // 2, 2
    count = np.pad(where.astype(np.float32), even).reshape(small).sum((1, 3))
    means = np.pad(values, (*even, (0, 0))).reshape(*small, -1).sum((1, 3))
    means /= np.maximum(count, 1)[..., None]
    coarse = continued(means, count > 0, 4 * fading)
    # With a border, whose pixels repeat the edge's.
    edged = np.empty((height + 2, width + 2, values.shape[-1]), np.float32)
    result = edged[1:-1, 1:-1]
    result[:] = np.where(where[..., None], values,
                         _doubled(_doubled(coarse, 0), 1)[:height, :width])
    free = ~where[..., None]
    for _ in range(_PASSES):
        edged[0], edged[-1], edged[:, 0], edged[:, -1] = (
            edged[1], edged[-2], edged[:, 1], edged[:, -2])
        mean = edged[:-2, 1:-1] + edged[2:, 1:-1]
        mean += edged[1:-1, :-2]
        mean += edged[1:-1, 2:]
        mean /= np.float32(4 + fading)
        np.copyto(result, mean, where=free)
    return result


def _doubled(x, axis):
    """Twice as many along an axis, by linear interpolation."""
    x = np.moveaxis(x, axis, 0)
    before, after = np.concatenate([x[:1], x[:-1]]), np.concatenate([x[1:], x[-1:]])
    both = np.stack([.75 * x + .25 * before, .75 * x + .25 * after], 1)
    return np.moveaxis(both.reshape(-1, *x.shape[1:]), 0, axis)


def _near(levels, where, sigma):
    """Gaussian means of levels, of those that count."""
    share = where.astype(np.float32)
    total = ndimage.gaussian_filter(levels * share[..., None], (sigma, sigma, 0))
    return total / np.maximum(ndimage.gaussian_filter(share, sigma), 1e-4)[..., None]
