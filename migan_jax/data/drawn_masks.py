"""What people draw as a mask, and what they mean by it.

Mask polarity: 255 (white) = known, 0 (black) = hole. A file is read as one of

* black and white; levels in between are counted, `mask_files.known_of` judges them;
* 0 and 1, as programs write them: 1 = known, as white would be;
* strokes of one colour on a transparent layer: the strokes are the hole, whatever their
  colour, and whatever white means otherwise;
* a photograph with parts cut out: what is transparent is the hole.

What is none of these is refused: maps of labels, which hold one number for each object.
"""

import os
from typing import NamedTuple

import numpy as np
from PIL import Image

from migan_jax.data import images
from migan_jax.data import photographs
from migan_jax.storage import shown

# Levels by which the channels of a colour differ, and by which strokes are of one colour.
_COLOURED = 32
_ALIKE = 24
# Labels are small numbers; beyond this they could be a dark picture.
_MOST_LABELS = 32


class NotAMask(ValueError):
    """A picture in the place of a mask."""


class Drawn(NamedTuple):
    """A mask as it was read.

    Attributes:
      levels: u8[H, W], 255 = known.
      note: how it was understood, where that is not the plain way; '' otherwise.
      orientation: of its EXIF data, applied; 1 changes nothing.
    """
    levels: np.ndarray
    note: str
    orientation: int


def read(path: str | os.PathLike, invert: bool = False) -> Drawn:
    """Reads a mask.

    Args:
      path: of the file.
      invert: white = hole. Cut-out photographs and strokes say by themselves what is
        hole and do not change with it.

    Raises:
      images.UnreadableImage: not a readable image.
      NotAMask: it holds labels.
    """
    name = shown(path)
    with images.errors_as_unreadable(name):
        images.check_regular(path, name)
        with images.open_with_pillow(path, name, images.MAX_PIXELS) as image:
            format_, orientation = image.format, images.orientation_of(image)
            image = image.copy()
        rgb = images.to_rgb(image)
    levels, note = _understood(image, rgb, format_, name, invert)
    return Drawn(photographs.turn(levels, orientation), note, orientation)


def of_pillow(image: Image.Image, name: str, invert: bool = False) -> Drawn:
    """`read` of an image in memory.

    Raises:
      NotAMask: it holds labels.
      ValueError: floating-point pixels or integers beyond 16 bits.
    """
    rgb, orientation = images.to_rgb(image), images.orientation_of(image)
    levels, note = _understood(image, rgb, image.format, name, invert)
    return Drawn(photographs.turn(levels, orientation), note, orientation)


def upright(drawn: Drawn, photograph: photographs.Photograph, stored: bool = False
            ) -> tuple[np.ndarray, str, bool]:
    """Turns a mask as its picture was turned, where it was drawn before that.

    Args:
      drawn: one with an EXIF orientation of its own has been turned by that.
      photograph: its picture.
      stored: it was drawn on the picture as it is stored, whatever the sizes say.

    Returns:
      u8[H, W], a sentence on what was done ('' if nothing), and whether that is a guess.
    """
    levels, orientation = drawn.levels, photograph.orientation
    if orientation == 1 or drawn.orientation != 1:
        return levels, '', False
    sideways = (levels.shape == photograph.stored_size
                and photograph.stored_size != photograph.size)
    if stored or sideways:
        return photographs.turn(levels, orientation), (
            'the mask was drawn on the picture as it is stored, and was turned with it '
            f'(EXIF orientation {orientation})'), False
    if levels.shape == photograph.stored_size == photograph.size:
        return levels, (f'EXIF orientation {orientation} was applied to the picture, and '
                        'its mask was taken as drawn on what is shown'), True
    return levels, '', False


def _understood(image, rgb, format_, name, invert):
    """u8[H, W], 255 = known, and the note."""
    if image.mode == 'P' and 'transparency' not in image.info:
        _refuse_labels(image, name)
    if image.has_transparency_data:
        found = _of_alpha(np.asarray(image.convert('RGBA')))
        if found is not None:
            return found
    levels = luma(np.asarray(rgb)).astype(np.uint8)
    present = np.flatnonzero(np.bincount(levels.ravel(), minlength=256))
    note = ''
    if present[-1] == 1:
        levels = levels * 255
        note = 'levels 0 and 1 were taken for 0 and 255'
    elif len(present) > 2 and present[-1] < _MOST_LABELS and format_ != 'JPEG':
        raise NotAMask(
            f'{name}: levels 0 to {present[-1]} are labels of objects and no mask; write '
            '0 where the picture is to be painted and 255 elsewhere')
    return (255 - levels if invert else levels), note


def _refuse_labels(image, name):
    palette = np.array(image.getpalette('RGB'), np.int32).reshape(-1, 3)
    used = [index for _, index in image.getcolors(256)]
    colours = palette[[index for index in used if index < len(palette)]]
    if len(colours) and np.ptp(colours, axis=1).max() > _COLOURED:
        raise NotAMask(
            f'{name}: a palette of {len(used)} colours: labels of objects and no mask; '
            'write 0 where the picture is to be painted and 255 elsewhere')


def _of_alpha(pixels):
    """A mask that is drawn in the transparency; None if that says nothing."""
    colours, alpha = pixels[..., :3].astype(np.int32), pixels[..., 3]
    if alpha.min() == 255 or alpha.max() == 0:
        return None
    visible = colours[alpha >= 128]
    if not len(visible):
        return None
    low, high = np.percentile(visible, [1, 99], axis=0)
    if (high - low).max() <= _ALIKE:
        return 255 - alpha, ('strokes of one colour on a transparent layer: the strokes '
                             'are the hole')
    grey = np.ptp(visible, axis=1).max() <= _ALIKE
    extreme = ((visible < _ALIKE) | (visible > 255 - _ALIKE)).all(1).mean()
    if grey and extreme > .95:
        # Black and white with a border or the like left out: read on white.
        return None
    return alpha.copy(), 'a picture with parts cut out: what is transparent is the hole'


def luma(rgb: np.ndarray) -> np.ndarray:
    """Integer luma: u8[..., 3] -> i32[...], grey levels keep their value."""
    # Channel by channel: products of integer matrices take five times as long.
    total = rgb[..., 0] * np.int32(299)
    total += rgb[..., 1] * np.int32(587)
    total += rgb[..., 2] * np.int32(114)
    total //= 1000
    return total


def fitted(levels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask scaled to the size of its picture; soft edges stay soft.

    Args:
      levels: u8[h, w], 255 = known.
      size: (height, width) of the picture.

    Raises:
      ValueError: the sides are not in the same proportion.
    """
    height, width = size
    scale = height / levels.shape[0]
    if abs(levels.shape[1] * scale - width) > max(1, scale):
        raise ValueError(
            f'the mask has {levels.shape[1]} x {levels.shape[0]} pixels, the image '
            f'{width} x {height}: not the same proportions')
    if np.isin(levels, (0, 255)).all():
        kind = Image.Resampling.NEAREST
    else:
        kind = Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(levels).resize((width, height), kind))


def grown(levels: np.ndarray, pixels: float) -> np.ndarray:
    """Grows the hole.

    Args:
      levels: u8[H, W], 255 = known; levels in between become hole.
      pixels: radius by which it grows.

    Returns:
      u8[H, W] of 0 and 255.
    """
    from scipy import ndimage

    known = levels == 255
    if pixels <= 0 or known.all():
        return np.where(known, 255, 0).astype(np.uint8)
    # Only round the holes: a distance is eight bytes a pixel.
    reach = int(np.ceil(pixels)) + 1
    rows, columns = (np.flatnonzero(~known.all(axis=axis)) for axis in (1, 0))
    part = (slice(max(rows[0] - reach, 0), rows[-1] + reach + 1),
            slice(max(columns[0] - reach, 0), columns[-1] + reach + 1))
    result = np.full(levels.shape, 255, np.uint8)
    far = ndimage.distance_transform_edt(known[part]) > pixels
    result[part] = np.where(far, 255, 0)
    return result
