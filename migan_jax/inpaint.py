"""Pictures of any size through a model of one size.

Mask polarity everywhere: 1 (255 in u8) = known, 0 = hole.

`inpaint_resize`, `inpaint_pipeline` and `inpaint_many` work on the host in numpy, so that
a new picture size compiles nothing: only the R x R model is compiled, once for each of
`BATCH_SIZES` that is used.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from migan_jax.devices import Array
from migan_jax.model.io import composite
from migan_jax.model.io import from_uint8
from migan_jax.model.io import model_input
from migan_jax.model.io import to_uint8

# How many pictures a model is given at once; fewer are filled up to the next of these.
BATCH_SIZES = (1, 2, 4, 8)

# A model as a function: f32[B, R, R, 4], see `model_input`, -> f32[B, R, R, 3].
Generate = Callable[[np.ndarray], Array]


class Job(NamedTuple):
    """A picture made ready for the model.

    Attributes:
        seen: f32[R, R, 4], see `model_input`.
        finish: f32[R, R, 3] that the model painted -> u8[H, W, 3].
    """
    seen: np.ndarray
    finish: Callable[[np.ndarray], np.ndarray]


def inpaint_resize(generate: Generate, image: np.ndarray, mask: np.ndarray, resolution: int
                   ) -> np.ndarray:
    """Squashes the picture to R x R, paints, and composites in full resolution.

    What the published demo does. Every pixel outside the hole keeps its bytes.

    Args:
        generate: f32[1, R, R, 4] -> f32[1, R, R, 3], see `model_input`.
        image: u8[H, W, 3], any size.
        mask: u8[H, W] or u8[H, W, 1]; 255 = known, any smaller value = hole.
        resolution: R, what `generate` was trained at.

    Returns:
        u8[H, W, 3]; a copy of `image`, the model not run, if all of it is known.

    Raises:
        ValueError: wrong dtype or shape, or the model painted non-finite values.
    """
    (result,) = inpaint_many(generate, [(image, mask)], resolution, prepare_resize)
    return result


def prepare_resize(image: np.ndarray, mask: np.ndarray, resolution: int) -> Job | None:
    """The first half of `inpaint_resize`: a `Job`, or None if all is known.

    Raises:
        ValueError: wrong dtype or shape.
    """
    known = check(image, mask)
    if known.all():
        return None
    height, width = known.shape
    known = known.astype(np.uint8)
    bicubic, nearest = Image.Resampling.BICUBIC, Image.Resampling.NEAREST
    square = (resolution, resolution)
    seen = np.asarray(Image.fromarray(image).resize(square, bicubic))
    seen_known = np.asarray(Image.fromarray(known).resize(square, nearest))

    def finish(painted):
        painted = Image.fromarray(to_uint8(painted)).resize((width, height), bicubic)
        return composite(np.asarray(painted), image, known[..., None])

    return Job(_seen(from_uint8(seen), seen_known), finish)


def inpaint_pipeline(generate: Generate, image: np.ndarray, mask: np.ndarray, resolution: int,
                     *, padding: int = 128, stretch: bool = False) -> np.ndarray:
    """Paints a square crop around the hole and blends it in with a soft edge.

    1. The box around the hole, `padding` pixels wider on each side, at least R,
       square, moved to lie inside the picture, and cut where the picture is smaller.
    2. A cut box that is no longer square is made square by mirroring picture *and*
       mask at the picture's border. A mirrored hole stays a hole: calling it known
       would show the model what it is asked to remove. `stretch=True` squeezes the
       oblong box into R x R instead, as the published pipeline does.
    3. Bilinear resize to R x R (mask nearest), model, bilinear resize back, clip.
    4. The known mask, grown by one pixel (3x3 maximum) and blurred 5x5, blends the
       box in; levels are truncated to u8.

    Pixels outside the box, and inside it those at two or more pixels from the hole,
    keep their bytes. Growing the known mask by one pixel means that a hole at most
    two pixels wide closes and is not painted; `inpaint_resize` composites with the
    mask as it is.

    Args:
        generate: f32[1, R, R, 4] -> f32[1, R, R, 3], see `model_input`.
        image: u8[H, W, 3], any size from 1 x 1.
        mask: u8[H, W] or u8[H, W, 1]; 255 = known. Any smaller value is hole, for the
          box, for the model (which sees 0 and 1 only) and for the blending.
        resolution: R, what `generate` was trained at.
        padding: pixels of context around the hole.
        stretch: see 2.

    Returns:
        u8[H, W, 3]; a copy of `image`, the model not run, if all of it is known.

    Raises:
        ValueError: wrong dtype or shape, or the model painted non-finite values.
    """
    def prepare(image, mask, resolution):
        return prepare_pipeline(
            image, mask, resolution, padding=padding, stretch=stretch)

    (result,) = inpaint_many(generate, [(image, mask)], resolution, prepare)
    return result


def prepare_pipeline(image: np.ndarray, mask: np.ndarray, resolution: int, *,
                     padding: int = 128, stretch: bool = False) -> Job | None:
    """The first half of `inpaint_pipeline`: a `Job`, or None if all is known.

    Raises:
        ValueError: wrong dtype or shape.
    """
    known = check(image, mask)
    if known.all():
        return None
    top, bottom, left, right = hole_box(known, resolution, padding)
    picture = image[top:bottom, left:right].astype(np.float32)
    known = known[top:bottom, left:right].astype(np.float32)[..., None]

    height, width = picture.shape[:2]
    rows, columns = (height, width) if stretch else (max(height, width),) * 2
    border = ((0, rows - height), (0, columns - width), (0, 0))
    seen, seen_known = picture, known
    if rows != height or columns != width:
        seen = np.pad(picture, border, mode='symmetric')
        seen_known = np.pad(known, border, mode='symmetric')

    def finish(painted):
        painted = resize_bilinear(painted, rows, columns)[:height, :width]
        painted = np.clip(painted, -1, 1) * 127.5 + 127.5
        blended = composite(painted, picture, soften(known))
        # Rounding noise of a blend that should hit a level must not cost that level.
        levels = np.floor(np.clip(blended + 1e-3, 0, 255)).astype(np.uint8)
        result = image.copy()
        result[top:bottom, left:right] = levels
        return result

    return Job(
        _seen(resize_bilinear(seen, resolution, resolution) / 127.5 - 1,
              resize_nearest(seen_known, resolution, resolution)[..., 0]), finish)


# Ways to inpaint a picture of any size, as the tools and the Python API call them.
MODES = {'resize': prepare_resize, 'pipeline': prepare_pipeline}


def inpaint_many(generate: Generate, pictures: Sequence[tuple[np.ndarray, np.ndarray]],
                 resolution: int,
                 prepare: Callable[[np.ndarray, np.ndarray, int], Job | None] = prepare_resize
                 ) -> Iterator[np.ndarray]:
    """Inpaints pictures of any sizes, several at a time.

    Args:
        generate: f32[B, R, R, 4] -> f32[B, R, R, 3], see `model_input`; B is one of
            `BATCH_SIZES`.
        pictures: sequence of (image, mask), see `inpaint_resize`.
        resolution: R, what `generate` was trained at.
        prepare: `prepare_resize` or `prepare_pipeline`.

    Yields:
        u8[H, W, 3], in order; a copy of the image where all of it is known.

    Raises:
        ValueError: wrong dtype or shape, or the model painted non-finite values.
    """
    for start in range(0, len(pictures), BATCH_SIZES[-1]):
        group = pictures[start:start + BATCH_SIZES[-1]]
        jobs = [prepare(image, mask, resolution) for image, mask in group]
        painted = iter(run(generate, [job.seen for job in jobs if job is not None]))
        for (image, _), job in zip(group, jobs):
            yield image.copy() if job is None else job.finish(next(painted))


def hole_box(known: np.ndarray, resolution: int, padding: int) -> tuple[int, int, int, int]:
    """The box that `inpaint_pipeline` crops.

    Args:
        known: bool[H, W], True = known; at least one pixel must be hole.
        resolution: least side of the box in pixels.
        padding: pixels of context around the hole.

    Returns:
        (top, bottom, left, right), ends exclusive. Its sides are equal unless the
        picture is shorter than the longer one.
    """
    spans = []
    for axis in (1, 0):
        holes = np.flatnonzero(~known.all(axis=axis))
        spans.append((int(holes[0]), int(holes[-1]) + 1))
    longest = max(end - start for start, end in spans)
    side = max(longest + 2 * padding, resolution)
    box = []
    for (start, end), length in zip(spans, known.shape):
        first = (start + end) // 2 - side // 2
        first = min(max(first, 0), max(length - side, 0))
        box += [first, min(first + side, length)]
    return tuple(box)


def soften(known: np.ndarray) -> np.ndarray:
    """Grows the known region by a pixel and blurs its edge.

    3x3 maximum, then a separable 5x5 blur with weights exp(-((x - 2) / 2)^2),
    normalised, reflected at the border.

    Args:
        known: f32[H, W, 1], 1 = known, 0 = hole.

    Returns:
        f32[H, W, 1] in [0, 1], exactly 1 where the whole 5x5 neighbourhood is 1.
    """
    height, width = known.shape[:2]
    taps = np.exp(-(((np.arange(5) - 2) / 2) ** 2))
    taps = (taps / taps.sum()).astype(np.float32)
    # Blurring the hole, not the known region: a sum of zeros is exactly zero,
    # whereas the taps add up to one only within rounding.
    hole = 1 - known
    padded = np.pad(hole, ((1, 1), (1, 1), (0, 0)), constant_values=1)
    hole = np.minimum.reduce([padded[i:i + height] for i in range(3)])
    hole = np.minimum.reduce([hole[:, i:i + width] for i in range(3)])
    padded = np.pad(hole, ((2, 2), (2, 2), (0, 0)), mode='reflect')
    hole = sum(taps[i] * padded[i:i + height] for i in range(5))
    hole = sum(taps[i] * hole[:, i:i + width] for i in range(5))
    return np.clip(1 - hole, 0, 1)


def resize_bilinear(x: np.ndarray, height: int, width: int) -> np.ndarray:
    """f32[H, W, C] -> f32[height, width, C]: half-pixel centres, edges clamped.

    No antialiasing: each output pixel mixes at most four input pixels.
    """
    for axis, size in ((0, height), (1, width)):
        length = x.shape[axis]
        if length == size:
            continue
        position = (np.arange(size) + 0.5) * (length / size) - 0.5
        position = np.clip(position, 0, length - 1)
        low = np.floor(position).astype(np.int64)
        high = np.minimum(low + 1, length - 1)
        share = (position - low).astype(np.float32)
        share = share[:, None, None] if axis == 0 else share[None, :, None]
        x = x.take(low, axis) * (1 - share) + x.take(high, axis) * share
    return x


def resize_nearest(x: np.ndarray, height: int, width: int) -> np.ndarray:
    """[H, W, C] -> [height, width, C]: output i reads input floor(i * in / out)."""
    rows = np.arange(height) * x.shape[0] // height
    columns = np.arange(width) * x.shape[1] // width
    return x[rows][:, columns]


def check(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Checks the two arrays; bool[H, W], True = known."""
    rgb = image.ndim == 3 and image.shape[2] == 3 and image.size > 0
    if image.dtype != np.uint8 or not rgb:
        raise ValueError(
            f'image: expected u8[H, W, 3] with H, W >= 1, got {image.dtype}'
            f'{list(image.shape)}; convert the picture to RGB with 8 bits a channel'
        )
    if mask.ndim == 3 and mask.shape[2] == 1:
        mask = mask[..., 0]
    if mask.dtype != np.uint8 or mask.shape != image.shape[:2]:
        raise ValueError(
            f'mask: expected u8{list(image.shape[:2])} (255 = known, 0 = hole) to '
            f'match the image, got {mask.dtype}{list(mask.shape)}'
        )
    return mask == 255


def _seen(image, known):
    """`model_input` of f32[R, R, 3] and [R, R], 1 = known."""
    return model_input(image, known.astype(np.float32)[..., None])


def run(generate: Generate, seen: Sequence[np.ndarray]) -> np.ndarray | list[np.ndarray]:
    """Runs the model on a list of at most `BATCH_SIZES[-1]` f32[R, R, 4].

    Returns:
        f32[len(seen), R, R, 3].
    """
    if not seen:
        return []
    size = next(size for size in BATCH_SIZES if size >= len(seen))
    # Filled up with the last one, whose values are as good as any other's.
    x = np.stack([seen[min(i, len(seen) - 1)] for i in range(size)])
    output = np.asarray(generate(x))
    if output.shape != (*x.shape[:3], 3):
        raise ValueError(
            f'generate: expected an output of shape {[*x.shape[:3], 3]}, got '
            f'{list(output.shape)}; is `resolution` the resolution of the model?'
        )
    output = output[:len(seen)].astype(np.float32)
    if not np.isfinite(output).all():
        raise ValueError(
            'generate: the model painted non-finite values; the checkpoint is damaged '
            'or its training diverged: use an earlier one'
        )
    return output
