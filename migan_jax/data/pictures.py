"""Pictures and masks as people hand them over in Python: NumPy arrays and PIL images.

Mask polarity is always said: an argument called `mask` has True, 255 or 1.0 = known, one
called `hole` has True, 255 or 1.0 = hole.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
import warnings

import jax
import numpy as np
from PIL import Image

from migan_jax.data import colour
from migan_jax.data import drawn_masks
from migan_jax.data import images as image_files
from migan_jax.data import mask_files
from migan_jax.data import photograph_files
from migan_jax.data import photographs
from migan_jax.data.photographs import Photograph
from migan_jax.devices import Array

# What is taken for one picture and for one mask; `levels_of` and `pictures_of` say of which
# shapes and values. Several are a list of these, or an array with one axis more.
OnePicture = np.ndarray | Image.Image
OneMask = Array | Image.Image
Masks = OneMask | Sequence[OneMask]


class MaskWarning(UserWarning):
    """A mask that can be used, and that looks as if something else was meant."""


class Picture(NamedTuple):
    """A picture as the inpainting takes it, and the way back.

    Attributes:
      photograph: upright.
      index: '' or '[i]', for messages.
      restore: the photograph, painted -> what the picture was.
    """
    photograph: Photograph
    index: str
    restore: Callable[[Photograph], OnePicture]


def mask_or_hole(mask: Masks | None, hole: Masks | None) -> tuple[str, Masks, bool]:
    """Name, value, and whether its True is hole; ValueError unless one is given."""
    if (mask is None) == (hole is None):
        given = 'neither' if mask is None else 'both'
        raise ValueError(
            f'expected either mask= (True or 255 = known) or hole= (True or 255 = '
            f'hole), got {given}.')
    return ('mask', mask, False) if hole is None else ('hole', hole, True)


def describe(value: object) -> str:
    """A word on a value for messages."""
    if isinstance(value, (np.ndarray, jax.Array)):
        return f'{value.dtype}{list(value.shape)}'
    if isinstance(value, Image.Image):
        return f'a PIL image of mode {value.mode}, {value.width} x {value.height}'
    return f'a {type(value).__name__}'


def several(image: object) -> bool:
    """Whether it is a list or a batch of pictures."""
    return isinstance(image, (list, tuple)) or (
        isinstance(image, np.ndarray) and image.ndim == 4)


def pictures_of(image: OnePicture | Sequence[OnePicture]
                ) -> tuple[list[Picture], Callable[[list], Any]]:
    """`Picture`s, and the function that makes what `image` was of their results."""
    if not several(image):
        return [_picture(image, '')], lambda results: results[0]
    if not len(image):
        raise ValueError('image: expected at least one picture, got none.')
    pictures = []
    # No comprehension: until Python 3.12 a warning's level counts it.
    for i, one in enumerate(image):
        pictures.append(_picture(one, f'[{i}]'))
    return pictures, np.stack if isinstance(image, np.ndarray) else list


def masks_of(masks: Masks, name: str, count: int) -> list[OneMask]:
    """One mask for each of `count` pictures."""
    several = isinstance(masks, (list, tuple)) or (
        isinstance(masks, (np.ndarray, jax.Array)) and masks.ndim > 2)
    if not several or len(masks) != count:
        got = f'{len(masks)} of them' if several else describe(masks)
        raise ValueError(f'{name}: expected {count}, one for each picture, got {got}.')
    return list(masks)


def _picture(image, index):
    """Checks one picture: `Picture`."""
    name = f'image{index}'
    if isinstance(image, Image.Image):
        return _pil_picture(image, name, index)
    expected = ('expected NumPy u8 (0 to 255), u16 (0 to 65535) or float (0 to 1) of shape '
                '[H, W, 3], with alpha [H, W, 4], grey [H, W], [H, W, 1] or with alpha '
                '[H, W, 2], with H, W >= 1, or a PIL image')
    if not isinstance(image, np.ndarray):
        raise ValueError(f'{name}: {expected}, got {describe(image)}.')
    channels = image.shape[2] if image.ndim == 3 else 1
    if image.ndim not in (2, 3) or channels not in (1, 2, 3, 4) or not image.size:
        hint = ''
        if image.ndim == 3:
            hint = ' A batch of grey pictures has the shape [B, H, W, 1].'
        raise ValueError(f'{name}: {expected}, got {describe(image)}.{hint}')
    samples = image
    if image.dtype in (np.float16, np.float32, np.float64):
        low, high = float(image.min()), float(image.max())
        # Written so that NaN fails.
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f'{name}: float pictures have values in [0, 1], got {low:g} to '
                f'{high:g}; rescale it, or pass levels 0 to 255 as u8.')
        samples = image.astype(np.float32)
    elif image.dtype not in (np.uint8, np.uint16):
        raise ValueError(f'{name}: {expected}, got {describe(image)}; convert it with '
                         '.astype(np.uint8) if its levels are 0 to 255.')
    samples = np.ascontiguousarray(samples).reshape(*image.shape[:2], channels)

    def restore(painted):
        result = painted.samples.reshape(image.shape)
        if result.dtype == image.dtype:
            return result.copy()
        # Untouched samples keep what float32 has no room for.
        kept = result == samples.reshape(image.shape)
        return np.where(kept, image, result.astype(image.dtype))

    return Picture(Photograph(samples, name, 'PNG', True), index, restore)


def _pil_picture(image, name, index):
    """`Picture` of a PIL image."""
    if not (image.width and image.height):
        raise ValueError(f'{name}: the picture has no pixels.')
    with image_files.errors_as_unreadable(name):
        photograph = photographs.of_pillow(image, name)
    colour.check(photograph)

    def restore(painted):
        result = photograph_files.to_pillow(painted)
        return result.convert('I') if image.mode == 'I' else result

    return Picture(photograph, index, restore)


def _of_array(levels, name, inverted, expected):
    """`drawn_masks.Drawn` of an array."""
    got = describe(levels)
    if levels.ndim == 3 and levels.shape[2] == 1:
        levels = levels[..., 0]
    if levels.ndim != 2 or not levels.size:
        raise ValueError(f'{name}: {expected}; got {got}.')
    if levels.dtype == bool:
        levels = np.where(levels, 255, 0).astype(np.uint8)
    elif levels.dtype.kind == 'f':
        if not (levels.min() >= 0 and levels.max() <= 1):
            raise ValueError(f'{name}: {expected}; got {got} with values '
                             f'{levels.min():g} to {levels.max():g}.')
        levels = np.rint(levels.astype(np.float32) * 255).astype(np.uint8)
    elif levels.dtype != np.uint8:
        raise ValueError(f'{name}: {expected}; got {got}; pass {name} > 0 or {name} == 255, '
                         'whichever says it.')
    elif levels.max() == 1:
        raise ValueError(f'{name}: u8 with no level above 1; expected 0 and 255. Pass '
                         f'{name}.astype(bool), where 1 means '
                         f'{"hole" if inverted else "known"}.')
    return drawn_masks.Drawn(255 - levels if inverted else levels, '', 1)


def levels_of(mask: OneMask, name: str, inverted: bool, size: tuple[int, int],
              soft: bool = False, photograph: Photograph | None = None) -> np.ndarray:
    """Checks one mask or hole.

    Args:
      mask: what was handed over.
      name: for messages.
      inverted: True = hole.
      size: (height, width) of the picture.
      soft: levels in between stay.
      photograph: with whose EXIF orientation a mask is turned that has its stored size.

    Returns:
      u8[H, W], 255 = known, 0 = hole, and with `soft` levels in between.

    Warns:
      MaskWarning: it was not understood in the plain way.

    Raises:
      ValueError: no mask, or not of that size.
    """
    meaning = 'hole' if inverted else 'known'
    expected = (f'expected bool, u8 of 0 and 255 or float of 0.0 and 1.0 (True, 255, '
                f'1.0 = {meaning}) of shape {list(size)}, as its picture has')
    if isinstance(mask, Image.Image):
        try:
            drawn = drawn_masks.of_pillow(mask, name, inverted)
        except drawn_masks.NotAMask:
            raise
        except ValueError as error:
            raise ValueError(f'{name}: {error}') from error
    elif isinstance(mask, (np.ndarray, jax.Array)):
        drawn = _of_array(np.asarray(mask), name, inverted, expected)
    else:
        raise ValueError(f'{name}: {expected}, got {describe(mask)}.')
    levels, notes = drawn.levels, [drawn.note] if drawn.note else []
    if photograph is not None:
        levels, turned, guessed = drawn_masks.upright(drawn, photograph)
        if turned:
            notes.append(turned + guessed * (
                '; where that is wrong, pass PIL.ImageOps.exif_transpose(image) and a mask '
                'of that'))
    if levels.shape != size:
        raise ValueError(f'{name}: {expected}; got {describe(mask)}.')
    if not soft:
        try:
            known, between = mask_files.known_of(levels)
        except mask_files.NotAMask as error:
            remedy = '; soft=True keeps levels in between as soft edges'
            raise ValueError(
                f'{name}: {error}{remedy if photograph else ""}') from error
        if between:
            notes.append(f'{between} pixels ({between / levels.size:.2%}) are neither 0 '
                         'nor 255; 128 and above is taken as 255')
        levels = np.where(known, 255, 0).astype(np.uint8)
    for note in notes:
        warnings.warn(f'{name}: {note}.', MaskWarning, stacklevel=3)
    return levels


def warn_of_polarity(known: Sequence[np.ndarray], name: str) -> None:
    """Warns where masks look as if the other polarity was meant."""
    other = 'mask' if name == 'hole' else 'hole'
    meaning = {'mask': 'known', 'hole': 'hole'}[name]
    remedy = (f'{name}= has True or 255 = {meaning}; if it is the other way round, '
              f'pass it as {other}=')
    share = 1 - sum(k.sum() for k in known) / sum(k.size for k in known)
    if any(k.all() for k in known):
        warnings.warn('nothing to inpaint, the picture is returned as it is: all is '
                      f'known. {remedy}.', MaskWarning, stacklevel=3)
    elif not all(k.any() for k in known):
        warnings.warn(f'nothing is known, the model paints freely. {remedy}.',
                      MaskWarning, stacklevel=3)
    elif share > mask_files.SUSPICIOUS_HOLE:
        warnings.warn(f'{share:.0%} of the pixels are hole. {remedy}.', MaskWarning,
                      stacklevel=3)
