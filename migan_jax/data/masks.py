"""Free-form masks for training and evaluation, drawn on the device.

Mask polarity everywhere: 1 = known, 0 = hole.

The distribution is that of the sampler published with Co-Mod-GAN and used by
MI-GAN: boxes and brush strokes in random numbers, drawn again until the hole
share lies inside a range.  The published one draws with NumPy and PIL on the
host.  This one is a pure function of a key, so it runs inside the training step
and the host only decodes images.  Single masks differ from PIL's by at most
about a pixel along the outline of a stroke.

One try takes fewer than a thousand random numbers.  Strokes are painted one after
another, only as many as were drawn, each in one fused pass over a boolean plane.
"""

from collections.abc import Sequence
import fractions
import functools
import hashlib
import math
import operator

import jax
import jax.numpy as jnp
import numpy as np

from migan_jax.devices import Array

# Exclusive bounds of the numbers of shapes when hole_range[0] + hole_range[1] >= 1.
_SMALL_BOXES = 10  # sides below half the resolution
_LARGE_BOXES = 5  # sides below the resolution
_STROKES = 20

# Segments of one stroke, and the angle at which they zigzag.
_MIN_SEGMENTS = 4
_MAX_SEGMENTS = 17
_MEAN_ANGLE = 2 * math.pi / 5
_ANGLE_RANGE = 2 * math.pi / 15

# Side at which masks of the size of a picture are drawn: published brush widths fit it.
SIDE = 256

# A range that one draw in a hundred meets is missed with probability 4e-5.
MAX_TRIES = 1000


def stroke_widths(resolution: int) -> tuple[int, int]:
    """Narrowest and widest stroke for R x R: the published 12 and 48, scaled below 256.

    At 64 x 64 the published ones would erase nine tenths of a picture.
    """
    scale = min(1.0, resolution / SIDE)
    return max(1, round(12 * scale)), max(1, round(48 * scale))


def free_form(key: jax.Array | int, resolution: int | Sequence[int],
              hole_range: Sequence[float] = (0.0, 1.0), *, brush_width: Sequence[int] = (12, 48)
              ) -> Array:
    """Draws one free-form mask.

        mask = migan_jax.masks.free_form(0, 256)             # seed 0, 256 x 256
        mask = migan_jax.masks.free_form(0, picture.shape)   # of a picture's size

    One try paints, uniformly in number, fewer than `int(10 * scale)` boxes with
    sides below resolution / 2, fewer than `int(5 * scale)` boxes with sides below
    resolution and fewer than `int(20 * scale)` brush strokes, where
    `scale = min(lo + hi, 1)`.  Tries are repeated until lo < hole share < hi.

    At most `MAX_TRIES` masks are tried; if none is inside the range, the one with
    the hole share closest to it is returned.  A brush too wide for the resolution
    and the range therefore shows as masks outside the range, never as a hang.

    All arguments but the key are static under `jax.jit`.  The function can be
    vmapped, but then every lane repeats its work until the last one succeeds: use
    `free_form_batch` for a batch.

    Args:
      key: one `jax.random` key, or an int, the seed of one, for a NumPy array
        outside of `jax.jit`.
      resolution: int, side of the mask in pixels; or (height, width, ...), such as
        the shape of a picture, for a mask drawn at 256 x 256 and stretched to it.
      hole_range: (lo, hi), exclusive bounds of the share of hole pixels, with
        0 <= lo < hi <= 1 and lo + hi >= 0.1 (below, the bounds above leave
        nothing to paint).  Stretching changes the share by rounding only.
      brush_width: (narrowest, widest) stroke in whole pixels of the drawing, the
        widest excluded unless equal.  Published: 12 to 48 at 256 and at 512; smaller
        masks need narrower brushes.

    Returns:
      float32 [resolution, resolution, 1] or [height, width, 1], 1 = known, 0 = hole.

    Raises:
      ValueError: an argument is out of the range given above, or the mask has so
        few pixels that no number of hole pixels lies inside hole_range.
    """
    size, side = resolution, resolution
    if isinstance(resolution, (tuple, list)):
        if len(resolution) < 2:
            raise ValueError(f'resolution is {resolution!r}; expected an int, or '
                             '(height, width) in pixels')
        size = tuple(_checked_resolution(length) for length in resolution[:2])
        side = SIDE
    side = _checked_resolution(side)
    static = side, _checked_hole_range(hole_range), _checked_brush_width(brush_width)
    if isinstance(key, (int, np.integer)):
        # Compiled, and kept: a call of its own would compile the loops every time.
        # On the host, where stretching compiles nothing.
        mask = np.asarray(_sample_compiled(jax.random.key(key), *static))
    else:
        mask = _sample(key, *static)
    if isinstance(size, tuple):
        rows, columns = (np.arange(length) * side // length for length in size)
        mask = mask[rows][:, columns]
    return mask


def _sample(key, resolution, hole_range, brush_width):
    """`free_form` with checked arguments."""
    lo, hi = hole_range
    scale = min(lo + hi, 1.0)

    # Whole numbers, so that rounding of a mean never decides on a mask.
    pixels = resolution * resolution
    fewest = math.floor(fractions.Fraction(lo) * pixels) + 1
    most = math.ceil(fractions.Fraction(hi) * pixels) - 1
    if fewest > most:
        raise ValueError(
            f'hole_range is ({lo}, {hi}): of {pixels} pixels (resolution '
            f'{resolution}) no whole number lies strictly inside; widen hole_range '
            'or raise resolution'
        )

    def unfinished(carry):
        tries, miss, _ = carry
        return (miss > 0) & (tries < MAX_TRIES)

    def attempt(carry):
        tries, best_miss, best = carry
        box_key, stroke_key = jax.random.split(jax.random.fold_in(key, tries))
        hole = _boxes(box_key, resolution, scale)
        hole = _paint_strokes(hole, stroke_key, int(_STROKES * scale), brush_width)
        holes = jnp.sum(hole, dtype=jnp.int32)
        miss = jnp.maximum(jnp.maximum(fewest - holes, holes - most), 0)
        best = jnp.where(miss < best_miss, hole, best)
        return tries + 1, jnp.minimum(miss, best_miss), best

    first = (
        jnp.int32(0),
        jnp.int32(pixels + 1),
        jnp.zeros((resolution, resolution), bool),
    )
    _, _, hole = jax.lax.while_loop(unfinished, attempt, first)
    return jnp.logical_not(hole).astype(jnp.float32)[:, :, None]


_sample_compiled = functools.partial(jax.jit, static_argnums=(1, 2, 3))(_sample)


def free_form_batch(keys: jax.Array, resolution: int, hole_range: Sequence[float] = (0.0, 1.0),
                    *, brush_width: Sequence[int] = (12, 48)) -> jax.Array:
    """Draws a batch of free-form masks.

    Samples are drawn one after another (`jax.lax.map`), each with its own number
    of tries and strokes.  Under `jax.vmap` all would run as many as the unluckiest
    one.  On 2 CPU cores, batch 8 at 256, that takes 1.5 times as long where most
    tries are rejected (hole_range (0, 0.2)) and 0.8 times as long where hardly any
    is (hole_range (0, 1)); its program takes twice as long to compile.

    Args:
      keys: [B] `jax.random` keys, one for each mask.
      resolution, hole_range, brush_width: as for `free_form`.

    Returns:
      float32 [B, resolution, resolution, 1], 1 = known, 0 = hole; entry i equals
      `free_form(keys[i], ...)`.

    Raises:
      ValueError: as for `free_form`.
    """
    return jax.lax.map(
        lambda key: free_form(key, resolution, hole_range, brush_width=brush_width),
        keys,
    )


def name_key(seed: int, name: str) -> jax.Array:
    """The key of an image name, for evaluation masks fixed per image.

    A function of its arguments alone: process, Python version, and the other
    images of the set have no influence.

    Args:
      seed: int; another seed gives other masks.
      name: str; hashed as UTF-8 with SHA-256, of which the first eight bytes are
        folded into the key.

    Returns:
      One `jax.random` key (threefry, whatever jax's default generator is).
    """
    # File names need not be UTF-8.
    digest = hashlib.sha256(name.encode('utf-8', 'surrogateescape')).digest()
    key = jax.random.key(seed, impl='threefry2x32')
    for word in (digest[:4], digest[4:8]):
        key = jax.random.fold_in(key, int.from_bytes(word, 'big'))
    return key


def _checked_resolution(resolution):
    try:
        resolution = operator.index(resolution)
    except TypeError as error:
        raise ValueError(
            f'resolution is {resolution!r}; expected an int, the side in pixels'
        ) from error
    if resolution < 1:
        raise ValueError(f'resolution is {resolution}; expected at least 1 pixel')
    return resolution


def _checked_hole_range(hole_range):
    expected = 'expected two numbers with 0 <= lo < hi <= 1'
    try:
        lo, hi = (float(bound) for bound in hole_range)
    except (TypeError, ValueError) as error:
        raise ValueError(f'hole_range is {hole_range!r}; {expected}') from error
    if not 0.0 <= lo < hi <= 1.0:
        raise ValueError(f'hole_range is ({lo}, {hi}); {expected}')
    if int(_STROKES * (lo + hi)) < 2:
        raise ValueError(
            f'hole_range is ({lo}, {hi}): the numbers of shapes scale with lo + hi, '
            'and below 0.1 no shape is ever drawn; raise hi'
        )
    return lo, hi


def _checked_brush_width(brush_width):
    expected = 'expected two whole numbers of pixels with 1 <= narrowest <= widest'
    try:
        narrowest, widest = (operator.index(width) for width in brush_width)
    except (TypeError, ValueError) as error:
        raise ValueError(f'brush_width is {brush_width!r}; {expected}') from error
    if not 1 <= narrowest <= widest:
        raise ValueError(f'brush_width is ({narrowest}, {widest}); {expected}')
    return narrowest, widest


def _below(uniform, bound):
    """Whole numbers 0 ... bound - 1 (float32) from uniform ones in [0, 1)."""
    return jnp.floor(uniform * bound)


def _uniforms(key, *shapes):
    """Uniform numbers in [0, 1), one float32 array for each shape.

    One call of the generator for all: on CPU each call adds 0.3 s of compiling.
    """
    sizes = [math.prod(shape) for shape in shapes]
    parts = jnp.split(jax.random.uniform(key, (sum(sizes),)), np.cumsum(sizes)[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes)]


def _boxes(key, resolution, scale):
    """The boxes of one try: bool [resolution, resolution], True = hole."""
    kinds = (
        (int(_SMALL_BOXES * scale), resolution // 2),
        (int(_LARGE_BOXES * scale), resolution),
    )
    # An exclusive bound of n needs room for n - 1 boxes.
    room = [max(bound - 1, 0) for bound, _ in kinds]
    size = np.repeat([float(size) for _, size in kinds], room).astype(np.float32)
    rank = np.concatenate([np.arange(n) for n in room]).astype(np.float32)
    bound = np.repeat([float(b) for b, _ in kinds], room).astype(np.float32)
    kind = np.repeat(np.arange(len(kinds)), room)

    per_axis = (2, len(rank))
    count, side, corner = _uniforms(key, (len(kinds),), per_axis, per_axis)
    count = _below(count[kind], bound)
    side = _below(side, size)
    outside = jnp.floor(side / 2)
    corner = _below(corner, resolution - side + 2 * outside) - outside
    pixel = jnp.arange(resolution, dtype=jnp.float32)
    inside = (pixel >= corner[:, :, None]) & (pixel < (corner + side)[:, :, None])
    # A pixel is in a box if its row and its column are: one small matrix product.
    rows = (inside[0] & (rank < count)[:, None]).astype(jnp.float32)
    columns = inside[1].astype(jnp.float32)
    return jnp.einsum('by,bx->yx', rows, columns) > 0


def _paint_strokes(hole, key, bound, brush_width):
    """Adds fewer than `bound` strokes to a bool [R, R] plane, True = hole."""
    resolution = hole.shape[0]
    strokes = bound - 1  # room for as many as can be drawn
    each = (strokes,)
    per_segment = (_MAX_SEGMENTS, strokes)
    uniform_key, normal_key = jax.random.split(key)
    count, flips, width, start, segments, below, above, angle = _uniforms(
        uniform_key, (), (2, 1), each, (2, strokes), each, each, each, per_segment
    )

    narrowest, widest = brush_width
    width = narrowest + _below(width, widest - narrowest)
    start = _below(start, resolution)
    segments = _MIN_SEGMENTS + _below(segments, _MAX_SEGMENTS + 1 - _MIN_SEGMENTS)

    smallest = _MEAN_ANGLE - _ANGLE_RANGE * below
    largest = _MEAN_ANGLE + _ANGLE_RANGE * above
    angle = smallest + (largest - smallest) * angle
    mean = math.sqrt(2) * resolution / 8
    deviation = float(mean // 2)  # the published code rounds it down
    length = mean + deviation * jax.random.normal(normal_key, per_segment)
    length = jnp.clip(length, 0.0, 2 * mean)
    # Strokes with fewer segments end in segments of length 0, which add nothing.
    number = np.arange(_MAX_SEGMENTS, dtype=np.float32)[:, None]
    length = jnp.where(number < segments, length, 0.0)
    # Always onward in x, up and down in turns in y: a zigzag.
    turn = np.where(number % 2 == 0, -1.0, 1.0).astype(np.float32)
    steps = jnp.stack([length * jnp.cos(angle), turn * length * jnp.sin(angle)], 1)

    def advance(point, step):
        point = jnp.floor(jnp.clip(point + step, 0.0, float(resolution)))
        return point, point

    _, points = jax.lax.scan(advance, start, steps)
    points = jnp.concatenate([start[None], points])  # [point, (x, y), stroke]
    # Flipping points is cheaper than flipping the plane.  Boxes need none: where
    # they fall has the same distribution in every orientation.
    points = jnp.where(flips < 0.5, resolution - 1 - points, points)

    # Near a segment's ends squared distances are whole numbers, and so is the
    # squared radius of an even width: without the 0.1, rounding would decide.
    radius2 = 0.25 * width * width + 0.1
    delta = points[1:] - points[:-1]
    length2 = jnp.maximum(jnp.sum(delta * delta, axis=1, keepdims=True), 1.0)
    lines = jnp.concatenate([points[:-1], delta, delta / length2], axis=1)
    pixel = jnp.arange(resolution, dtype=jnp.float32)

    def paint(stroke, hole):
        line = jax.lax.dynamic_index_in_dim(lines, stroke, axis=2, keepdims=False)
        limit = radius2[stroke]
        # Unrolled, so that all segments share one pass over the plane.
        for x0, y0, dx, dy, along_x, along_y in line:
            x = (pixel - x0)[None, :]
            y = (pixel - y0)[:, None]
            along = jnp.clip(x * along_x + y * along_y, 0.0, 1.0)
            off_x = x - along * dx
            off_y = y - along * dy
            hole |= off_x * off_x + off_y * off_y <= limit
        return hole

    return jax.lax.fori_loop(0, _below(count, bound).astype(jnp.int32), paint, hole)
