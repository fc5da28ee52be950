"""Which hole is painted how: groups of holes, and the windows that the network sees.

The network has one size, R x R. Squeezing a box round all holes of a photograph into it, as
the published pipeline does, leaves a blur. Here holes fall into groups, and a group is
painted

* natively where it fits into a window of R x R with some context: no resampling;
* in tiles along it where it is long and thin (wires, scratches), each tile seeing what the
  one before it painted;
* scaled where it is thick: reduced, painted, enlarged.

A hole that is thick in one place and thin in another is cut in two. Small groups share a
window where they fit into one.

Holes are grouped on a grid of blocks of R / 32 pixels, so that the work does not grow with
the number of pixels but with that of blocks.
"""

import dataclasses
from typing import Literal, NamedTuple

from etils import epy
import numpy as np

# Importing it takes a fifth of a second, and squashed pictures do without it.
with epy.lazy_imports():
    from scipy import ndimage

Route = Literal['native', 'tiles', 'scaled']

# Parts of R: what a window holds of holes at most (the rest is context, half of it on
# each side), the same for one of several tiles, and how thick a hole may be for tiles.
NATIVE_SHARE = .75
TILE_SHARE = .5
THICKEST_TILE = .5
# Context of a scaled hole on each side, as a part of its own longer side.
SCALED_CONTEXT = .25
_EVERYWHERE = np.ones((3, 3), bool)


class Box(NamedTuple):
    """Rows and columns of a picture, ends exclusive."""
    top: int
    bottom: int
    left: int
    right: int

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.top, self.bottom), slice(self.left, self.right)

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left


@dataclasses.dataclass(frozen=True)
class Window:
    """What one run of the network sees, and the part of it that is painted.

    Attributes:
      seen: box inside the picture; R x R for windows without scaling, smaller where the
        picture is.
      core: box inside `seen`; its holes are painted.
    """
    seen: Box
    core: Box


@dataclasses.dataclass(frozen=True)
class Group:
    """Holes that are painted together.

    Attributes:
      route: how.
      windows: in the order in which they are painted; several only of 'tiles'.
      factor: side of a window in pixels of the picture, by R; 1 unless 'scaled'.
    """
    route: Route
    windows: tuple[Window, ...]
    factor: float = 1.


def plan(known: np.ndarray, resolution: int) -> list[Group]:
    """Plans the painting of a picture's holes.

    Args:
      known: bool[H, W], True = known.
      resolution: R of the network.

    Returns:
      Groups in the order in which they are to be painted: scaled ones, whose fill the
      others may see, then native ones, then tiles. Their cores cover every hole.

    Raises:
      ValueError: not bool[H, W].
    """
    if known.dtype != bool or known.ndim != 2 or not known.size:
        raise ValueError(f'known: expected bool[H, W], got {known.dtype}'
                         f'{list(known.shape)}')
    block = max(1, resolution // 32)
    blocks = _any_hole(known, block)
    thick = _thick(blocks, resolution / block)
    groups = [_scaled(_pixels(box, block, known.shape), known.shape, resolution)
              for box in _boxes(thick)]
    small, long = [], []
    room = int(NATIVE_SHARE * resolution)
    labels, _ = ndimage.label(blocks & ~thick, _EVERYWHERE)
    for label, slices in enumerate(ndimage.find_objects(labels), 1):
        box = _pixels(_box_of(slices), block, known.shape)
        if max(box.height, box.width) <= room:
            small.append(box)
        else:
            rows, columns = np.nonzero(labels[slices] == label)
            long.append(np.stack([rows + slices[0].start, columns + slices[1].start], 1))
    for box in _shared(small, room):
        groups.append(Group('native', (_window(box, known.shape, resolution),)))
    for points in long:
        boxes = [_pixels(box, block, known.shape)
                 for box in _along(points, max(1, int(TILE_SHARE * resolution) // block))]
        groups.append(Group('tiles', tuple(
            _window(box, known.shape, resolution) for box in boxes)))
    return groups


def _any_hole(known, block):
    """bool[ceil(H / block), ceil(W / block)]: whether a block has a hole."""
    height, width = known.shape
    # Whole rows and columns at a time, which is faster than `reduceat`.
    rows = np.ones((-(-height // block), width), bool)
    for first in range(block):
        part = known[first::block]
        rows[:len(part)] &= part
    every = np.ones((len(rows), -(-width // block)), bool)
    for first in range(block):
        part = rows[:, first::block]
        every[:, :part.shape[1]] &= part
    return ~every


def _thick(blocks, side):
    """The parts of holes that no window of `side` blocks could surround.

    An opening: what a disc of the largest radius for tiles fits into, and what lies so
    close to it that it would be a sliver by itself.
    """
    thick = np.zeros_like(blocks)
    labels, _ = ndimage.label(blocks, _EVERYWHERE)
    radius = max(THICKEST_TILE * side / 2, 1)
    for label, slices in enumerate(ndimage.find_objects(labels), 1):
        height, width = (piece.stop - piece.start for piece in slices)
        if max(height, width) <= NATIVE_SHARE * side or min(height, width) <= 2 * radius:
            continue
        hole = labels[slices] == label
        # A border of what is no hole; the picture's border is none.
        inner = ndimage.distance_transform_edt(np.pad(hole, 1))[1:-1, 1:-1] > radius
        if not inner.any():
            continue
        away = ndimage.distance_transform_edt(~inner)
        found = hole & (away <= 2 * radius)
        kept, _ = ndimage.label(found, _EVERYWHERE)
        sizes = ndimage.find_objects(kept)
        # An opening that is no larger than a window is painted natively, in one piece.
        for part, inside in enumerate(sizes, 1):
            sides = (piece.stop - piece.start for piece in inside)
            if max(sides) > NATIVE_SHARE * side:
                thick[slices][inside] |= kept[inside] == part
    return thick


def _boxes(mask):
    labels, _ = ndimage.label(mask, _EVERYWHERE)
    return [_box_of(slices) for slices in ndimage.find_objects(labels)]


def _box_of(slices):
    return Box(slices[0].start, slices[0].stop, slices[1].start, slices[1].stop)


def _pixels(box, block, shape):
    """A box of blocks in pixels."""
    return Box(box.top * block, min(box.bottom * block, shape[0]),
               box.left * block, min(box.right * block, shape[1]))


def _scaled(box, shape, resolution):
    """The group of one thick hole."""
    longest = max(box.height, box.width)
    side = max(resolution, round(longest * (1 + 2 * SCALED_CONTEXT)))
    return Group('scaled', (Window(_square(box, side, shape), box),), side / resolution)


def _window(box, shape, resolution):
    return Window(_square(box, resolution, shape), box)


def _square(box, side, shape):
    """A square round a box, moved to lie inside the picture, cut where that is smaller."""
    ends = []
    for first, last, length in ((box.top, box.bottom, shape[0]),
                                (box.left, box.right, shape[1])):
        start = (first + last) // 2 - side // 2
        start = min(max(start, 0), max(length - side, 0))
        ends += [start, min(start + side, length)]
    return Box(*ends)


def _shared(boxes, room):
    """Joins small boxes while they fit into a square of `room` pixels, near ones first."""
    left = np.array(boxes, np.int64).reshape(-1, 4)
    left = left[np.lexsort((left[:, 2], left[:, 0]))]
    joined = []
    while len(left):
        top, bottom, start, end = left[0]
        taken = np.zeros(len(left), bool)
        # Not far down the list: it is sorted by its first row.
        near = np.searchsorted(left[:, 0], top + room)
        middle = (top + bottom + start + end) / 2
        distance = np.abs(left[:near].sum(1) / 2 - middle)
        for i in np.argsort(distance, kind='stable'):
            sides = (min(top, left[i, 0]), max(bottom, left[i, 1]),
                     min(start, left[i, 2]), max(end, left[i, 3]))
            if sides[1] - sides[0] <= room and sides[3] - sides[2] <= room:
                taken[i] = True
                top, bottom, start, end = sides
        joined.append(Box(*map(int, (top, bottom, start, end))))
        left = left[~taken]
    return joined


def _along(points, side):
    """Boxes of at most `side` blocks that cover points, each beside the one before.

    Args:
      points: i64[n, 2], blocks of a long hole.
      side: in blocks.
    """
    # From an end: the point farthest from the middle.
    here = points[np.abs(points - points.mean(0)).max(1).argmax()]
    boxes = []
    while len(points):
        distance = np.abs(points - here).max(1)
        here = points[distance.argmin()]
        distance = np.abs(points - here).max(1)
        order = np.argsort(distance, kind='stable')
        order = order[:np.searchsorted(distance[order], side)]
        nearest = points[order]
        low = np.minimum.accumulate(nearest)
        high = np.maximum.accumulate(nearest)
        count = np.searchsorted((high - low).max(1), side)
        low, high = low[count - 1], high[count - 1]
        boxes.append(Box(int(low[0]), int(high[0]) + 1, int(low[1]), int(high[1]) + 1))
        inside = ((points >= low) & (points <= high)).all(1)
        points, here = points[~inside], nearest[:count].mean(0)
    return boxes
