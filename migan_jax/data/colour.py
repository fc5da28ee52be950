"""Between the colours of a photograph and sRGB, which is what a network sees.

Profiles are converted by LittleCMS: through Pillow for 8 bits, through imagecodecs (extra
`photo`) for what is painted into pictures of 16 bits and more.
"""

import dataclasses
import io

import numpy as np
from PIL import Image
from PIL import ImageCms

from migan_jax.data.photographs import Photograph
from migan_jax import extras

# Colours between an sRGB level and the next: below this a profile is sRGB by itself.
_SAME = 1.5
_INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC
_FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION
# Pictures are converted in so many rows at a time, which bounds the memory.
_ROWS = 512


class UnusableProfile(ValueError):
    """A colour profile that LittleCMS can't apply to the picture that it came with."""


def is_srgb(photograph: Photograph) -> bool:
    """Whether the samples are sRGB, by the absence of a profile or by what it does."""
    if photograph.profile is None:
        return True
    steps = np.linspace(0, 255, 6).round().astype(np.uint8)
    if photograph.is_grey:
        levels = np.arange(0, 256, 5, dtype=np.uint8)[None, :, None]
    else:
        levels = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(1, -1, 3)
    converted = _to_srgb(levels, photograph.profile)
    return bool(np.abs(converted.astype(np.int32) - levels).max() <= _SAME)


def check(photograph: Photograph) -> None:
    """Raises UnusableProfile, naming the picture, unless its profile serves both ways."""
    pixel = dataclasses.replace(photograph, samples=to_levels(photograph.samples[:1, :1]))
    try:
        of_srgb(to_srgb(pixel), pixel, np.random.default_rng(0))
    except UnusableProfile as error:
        raise UnusableProfile(f'{photograph.name}: {error}') from error


def to_srgb(photograph: Photograph) -> np.ndarray:
    """What the network sees of a photograph.

    Transparency is composited on white, because colours stored under transparent pixels
    are arbitrary.

    Returns:
      u8[H, W, 3], sRGB; grey has three equal levels.

    Raises:
      UnusableProfile: the profile does not fit the picture.
    """
    samples = photograph.samples
    height, width, channels = samples.shape
    convert = not is_srgb(photograph)
    seen = np.empty((height, width, 3), np.uint8)
    colours = channels - photograph.has_alpha
    for top in range(0, height, _ROWS):
        rows = to_levels(samples[top:top + _ROWS])
        levels = rows[..., :colours]
        if convert:
            levels = _to_srgb(levels, photograph.profile)
        if photograph.has_alpha and rows[..., -1:].min() < 255:
            alpha = rows[..., -1:] / np.float32(255)
            levels = np.rint(levels * alpha + 255 * (1 - alpha)).astype(np.uint8)
        seen[top:top + _ROWS] = levels
    return seen


def to_levels(samples: np.ndarray) -> np.ndarray:
    """u8, u16 or f32 samples (see `Photograph`) -> u8, rounded."""
    if samples.dtype == np.uint8:
        return samples
    if samples.dtype == np.uint16:
        return ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return np.rint(samples * 255).astype(np.uint8)


def of_srgb(levels: np.ndarray, photograph: Photograph, rng: np.random.Generator
            ) -> np.ndarray:
    """Painted colours as samples of a photograph: its depth, its profile, its grey.

    Args:
      levels: f32[h, w, 3] or u8[h, w, 3], sRGB, 0 to 255, between levels too.
      photograph: gives depth and profile.
      rng: of the dither with which 8 and 16 bits are rounded where levels lie between.

    Returns:
      [h, w, 1] or [h, w, 3] of the photograph's dtype.

    Raises:
      UnusableProfile: the profile can't be converted into.
      MissingExtra: imagecodecs is not installed (16 bits and more with a profile).
    """
    samples = photograph.samples
    values = np.clip(levels.astype(np.float32), 0, 255)
    if photograph.is_grey and is_srgb(photograph):
        values = values @ np.float32([.299, .587, .114])[:, None]
    if is_srgb(photograph):
        return _to_depth(values, samples.dtype, rng)
    mode = 'L' if photograph.is_grey else 'RGB'
    if samples.dtype == np.uint8:
        image = Image.fromarray(_to_depth(values, np.uint8, rng))
        try:
            converted = ImageCms.profileToProfile(
                image, ImageCms.createProfile('sRGB'), io.BytesIO(photograph.profile),
                _INTENT, outputMode=mode, flags=_FLAGS)
        except (ImageCms.PyCMSError, OSError) as error:
            raise _unusable(error) from error
        return np.array(converted).reshape(*values.shape[:2], -1)
    with extras.needs('photo', 'Painting into 16 bits with a colour profile'):
        import imagecodecs

    converted = imagecodecs.cms_transform(
        np.rint(values * 257).astype(np.uint16), imagecodecs.cms_profile('srgb'),
        photograph.profile, colorspace='rgb',
        outcolorspace='gray' if mode == 'L' else 'rgb', intent=int(_INTENT)
    ).reshape(*values.shape[:2], -1)
    if samples.dtype == np.uint16:
        return converted
    return (converted / np.float32(65535)).astype(np.float32)


def _to_depth(values, dtype, rng):
    """f32, 0 to 255, as samples of a dtype."""
    if dtype == np.float32:
        return values / np.float32(255)
    scale = 1 if dtype == np.uint8 else 257
    values = values * np.float32(scale)
    # Whole levels stay what they are: the dither is below one.
    dithered = np.floor(values + rng.random(values.shape, np.float32) * (1 - 2**-10))
    return np.clip(dithered, 0, 255 * scale).astype(dtype)


def _to_srgb(levels, profile):
    """u8[h, w, 1 or 3] in a profile -> u8[h, w, 3] in sRGB."""
    image = Image.fromarray(levels[..., 0] if levels.shape[2] == 1 else levels)
    try:
        return np.array(ImageCms.profileToProfile(
            image, io.BytesIO(profile), ImageCms.createProfile('sRGB'), _INTENT,
            outputMode='RGB', flags=_FLAGS))
    except (ImageCms.PyCMSError, OSError) as error:
        raise _unusable(error) from error


def _unusable(error):
    return UnusableProfile(
        f'its colour profile cannot be used ({error}); convert the picture to sRGB')
