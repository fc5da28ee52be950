"""Paints the holes of a photograph as `plan` says, a few windows at a time.

Only crops are ever held as floating point numbers: the memory beyond the picture is that of
a few windows, however large the picture is.
"""

from collections.abc import Callable, Iterator
import dataclasses
import itertools
import math

import numpy as np
from PIL import Image

from migan_jax import inpaint
from migan_jax.model.io import model_input
from migan_jax.photo import blend
from migan_jax.photo import grain
from migan_jax.photo import plan as plan_lib
from migan_jax.photo import seam

# Pixels of the network round a hole that matter for how its fill meets them.
_MARGIN = 4
# Rows of an enlarged fill that are made at a time.
_ROWS = 1024


@dataclasses.dataclass(frozen=True)
class Settings:
    """What can be chosen.

    Attributes:
      feather: pixels outside a hole over which a native fill fades; a scaled one fades
        over as many pixels of what the network saw. 0 keeps every known pixel.
      grain: whether the grain of the surroundings is matched.
      seed: of the grain.
    """
    feather: float = 2.
    grain: bool = True
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Fill:
    """A part of the picture that was painted.

    Attributes:
      box: where.
      levels: f32[h, w, 3], sRGB, 0 to 255, already blended.
      weight: f32[h, w], 0 where the picture stays as it is.
    """
    box: plan_lib.Box
    levels: np.ndarray
    weight: np.ndarray


def inpaint_photo(generate: Callable, image: np.ndarray, mask: np.ndarray,
                  resolution: int, settings: Settings = Settings(),
                  ) -> np.ndarray:
    """Paints each hole of a photograph at the scale that suits it.

    Args:
      generate: f32[B, R, R, 4] -> f32[B, R, R, 3], see `model_input`; B is one of
        `inpaint.BATCH_SIZES`.
      image: u8[H, W, 3], any size.
      mask: u8[H, W] or u8[H, W, 1]; 255 = known, any smaller value = hole.
      resolution: R.
      settings: see `Settings`.

    Returns:
      u8[H, W, 3]; pixels beyond the feather keep their bytes.

    Raises:
      ValueError: wrong dtype or shape, or the model painted non-finite values.
    """
    known = inpaint.check(image, mask)
    result = image.copy()
    for _ in _painted(generate, result, known, resolution, settings, None):
        pass   # Painted into the result.
    return result


def fills(generate: Callable, image: np.ndarray, mask: np.ndarray, resolution: int,
          settings: Settings = Settings(), soft: bool = False) -> Iterator[Fill]:
    """What `inpaint_photo` paints, piece by piece; later ones lie over earlier ones.

    Arguments and errors as of `inpaint_photo`.

    Args:
      soft: levels of the mask between 0 and 255 are weights of the picture at the edge,
        instead of a feather.
    """
    known = inpaint.check(image, mask)
    return _painted(generate, image.copy(), known, resolution, settings,
                    mask.reshape(known.shape) if soft else None)


def _painted(generate, canvas, known, resolution, settings, levels):
    """Paints into `canvas`, and yields each `Fill`; `levels` are those of a soft mask."""
    done = known.copy()
    for number, batch in enumerate(_batches(plan_lib.plan(known, resolution))):
        seen = [_look(canvas, done, window, group.factor, resolution)
                for group, window in batch]
        painted = inpaint.run(
            generate, [model_input(*_signed(*pair)) for pair in seen])
        for (group, window), pair, output in zip(batch, seen, painted):
            rng = np.random.Generator(np.random.Philox(
                [settings.seed, window.core.top, window.core.left, number]))
            for fill in _finish(output, pair, canvas, done, levels, group, window,
                                settings, rng):
                _apply(canvas, fill)
                yield fill
        for _, window in batch:
            done[window.core.slices] = True


def _batches(groups):
    """Windows that do not wait for each other, with their groups.

    All scaled holes, all native ones, then the first tile of each long hole, the second
    tile of each, and so on.
    """
    size = inpaint.BATCH_SIZES[-1]
    for route in ('scaled', 'native', 'tiles'):
        chosen = [group for group in groups if group.route == route]
        rounds = itertools.zip_longest(*(group.windows for group in chosen))
        for windows in rounds:
            turn = [pair for pair in zip(chosen, windows) if pair[1] is not None]
            for start in range(0, len(turn), size):
                yield turn[start:start + size]


def _look(canvas, done, window, factor, resolution):
    """f32[R, R, 3], 0 to 255, and bool[R, R], True = known, of a window.

    Where the picture is smaller than the window, picture and mask are mirrored.
    """
    picture, known = canvas[window.seen.slices], done[window.seen.slices]
    side = round(factor * resolution)
    border = ((0, side - picture.shape[0]), (0, side - picture.shape[1]))
    if factor == 1:
        picture = np.pad(picture, (*border, (0, 0)), mode='symmetric')
        return picture.astype(np.float32), np.pad(known, border, mode='symmetric')
    # Before mirroring: the picture is large, and its border falls between pixels.
    height, width = (max(1, round(length / factor)) for length in known.shape)
    picture, known = reduced(picture, known, height, width)
    border = ((0, resolution - height), (0, resolution - width))
    return (np.pad(picture, (*border, (0, 0)), mode='symmetric'),
            np.pad(known, border, mode='symmetric'))


def reduced(picture: np.ndarray, known: np.ndarray, height: int, width: int
            ) -> tuple[np.ndarray, np.ndarray]:
    """Scales a picture down with antialiasing, without what lies in its holes.

    Each pixel is the mean of known pixels only: a hole's colours, which are to be
    forgotten, do not bleed into their surroundings.

    Args:
      picture: u8[H, W, 3].
      known: bool[H, W], True = known.
      height, width: of the result.

    Returns:
      f32[height, width, 3], 0 to 255, and bool[height, width]: known where at least half
      of a pixel's weight is.
    """
    def resized(plane):
        return np.asarray(Image.fromarray(plane).resize(
            (width, height), Image.Resampling.BILINEAR))

    share = resized(np.where(known, np.float32(1), np.float32(0)))
    planes = [resized(np.where(known, picture[..., i], 0).astype(np.float32))
              for i in range(3)]
    result = np.stack(planes, -1) / np.maximum(share, 1e-6)[..., None]
    return np.clip(result, 0, 255), share >= .5


def _signed(levels, known):
    return levels / np.float32(127.5) - 1, known.astype(np.float32)[..., None]


def _finish(output, seen, canvas, done, soft, group, window, settings, rng):
    """The fills of one window."""
    levels, known = seen
    painted = np.clip(output * 127.5 + 127.5, 0, 255)
    near = _near(window, group.factor, _MARGIN + int(np.ceil(settings.feather)), len(known))
    painted[near] = np.clip(seam.met(painted[near], levels[near], known[near]), 0, 255)
    # Reaching as far as the feather does.
    width = settings.feather * max(group.factor, 1)
    reach = int(np.ceil(width)) + 1
    core = window.core
    area = plan_lib.Box(max(core.top - reach, window.seen.top),
                        min(core.bottom + reach, window.seen.bottom),
                        max(core.left - reach, window.seen.left),
                        min(core.right + reach, window.seen.right))
    if group.factor == 1:
        yield _blended(_cut(painted, area, window.seen), area, canvas, done, soft, core,
                       width, 1, settings, rng)
        return
    # Enlarged from known pixels outside the hole, so that its edge is theirs.
    source = np.where(known[..., None], levels, painted)
    height, width_seen = (max(1, round(side / group.factor)) for side in (
        window.seen.height, window.seen.width))
    source = source[:height, :width_seen]
    for top in range(area.top, area.bottom, _ROWS):
        strip = area._replace(top=top, bottom=min(top + _ROWS, area.bottom))
        yield _blended(enlarged(source, window.seen, strip), strip, canvas, done, soft,
                       core, width, group.factor, settings, rng)


def _near(window, factor, margin, resolution):
    """Slices of what the network saw: the core and a margin, in pixels of the network."""
    core, seen = window.core, window.seen
    spans = ((core.top - seen.top, core.bottom - seen.top),
             (core.left - seen.left, core.right - seen.left))
    return tuple(slice(max(math.floor(first / factor) - margin, 0),
                       min(math.ceil(last / factor) + margin, resolution))
                 for first, last in spans)


def enlarged(source: np.ndarray, seen: plan_lib.Box, part: plan_lib.Box) -> np.ndarray:
    """A part of a small picture scaled up to the box that it shows.

    Args:
      source: f32[h, w, 3], which shows `seen`.
      seen: box in the picture.
      part: box inside `seen`.

    Returns:
      f32[part.height, part.width, 3], bicubic.
    """
    rows, columns = source.shape[0] / seen.height, source.shape[1] / seen.width
    box = ((part.left - seen.left) * columns, (part.top - seen.top) * rows,
           (part.right - seen.left) * columns, (part.bottom - seen.top) * rows)
    planes = [np.asarray(Image.fromarray(np.ascontiguousarray(source[..., i])).resize(
        (part.width, part.height), Image.Resampling.BICUBIC, box=box)) for i in range(3)]
    return np.clip(np.stack(planes, -1), 0, 255)


def _cut(painted, area, seen):
    return painted[area.top - seen.top:area.bottom - seen.top,
                   area.left - seen.left:area.right - seen.left]


def _blended(painted, area, canvas, done, soft, core, width, factor, settings, rng):
    """The `Fill` of an area of which `painted` shows everything."""
    picture, known = canvas[area.slices], done[area.slices]
    inside = np.zeros(known.shape, bool)
    inside[max(core.top - area.top, 0):max(core.bottom - area.top, 0),
           max(core.left - area.left, 0):max(core.right - area.left, 0)] = True
    hole = ~known & inside
    if settings.grain:
        noise = _grain(painted, hole, area, canvas, done, factor, rng)
        # Under the feather enlarged fills lack it, too; native ones are what was there.
        painted = painted + (noise if factor > 1 else noise * hole[..., None])
    if soft is None:
        weight = blend.feathered(hole, width)
    else:
        weight = np.where(hole, 1 - soft[area.slices] / np.float32(255), 0)
    return Fill(area, blend.mix(picture, painted, weight), weight.astype(np.float32))


def _grain(painted, hole, area, canvas, done, factor, rng):
    """`grain.texture` for an area, measured round it, too."""
    height, width = done.shape
    wide = plan_lib.Box(max(area.top - grain.REACH, 0), min(area.bottom + grain.REACH, height),
                        max(area.left - grain.REACH, 0), min(area.right + grain.REACH, width))
    part = (slice(area.top - wide.top, area.bottom - wide.top),
            slice(area.left - wide.left, area.right - wide.left))
    picture = canvas[wide.slices]
    filled, holes = picture.astype(np.float32), np.zeros(picture.shape[:2], bool)
    filled[part], holes[part] = painted, hole
    return grain.texture(filled, holes, picture, done[wide.slices], factor, rng)[part]


def _apply(canvas, fill):
    """Puts a fill into a picture of 8 bits."""
    # In one pass over the area: picking pixels by a mask first takes longer.
    levels = np.rint(np.clip(fill.levels, 0, 255)).astype(np.uint8)
    np.copyto(canvas[fill.box.slices], levels, where=fill.weight[..., None] > 0)
