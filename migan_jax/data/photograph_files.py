"""Writes a photograph back as it came: format, depth, profile, EXIF, resolution, text.

Pixels that nobody painted keep their bytes in every lossless format. JPEG is written with
the tables of the file that was read, so that it is as good and about as long as that was.
"""

import dataclasses
import io
import os
import zlib

import numpy as np
from PIL import Image
from PIL import PngImagePlugin

from migan_jax.data import colour
from migan_jax.data import photographs
from migan_jax.data.photographs import Photograph
from migan_jax import extras
from migan_jax import storage

# What --format takes -> Pillow's name, and the suffix.
FORMATS = {'png': ('PNG', '.png'), 'jpg': ('JPEG', '.jpg'), 'webp': ('WEBP', '.webp'),
           'tiff': ('TIFF', '.tif')}
# What 'same' keeps; everything else becomes PNG.
_KEPT = {'PNG': '.png', 'JPEG': '.jpg', 'TIFF': '.tif', 'BMP': '.bmp'}
# Where no tables of an input are at hand.
_QUALITY = 95


class CannotHold(ValueError):
    """A format that has no place for what the picture holds."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a photograph will be written.

    Attributes:
      format: Pillow's name.
      suffix: of the file.
      lossless: whether unpainted pixels keep their bytes.
      notes: what the format loses, in sentences.
    """
    format: str
    suffix: str
    lossless: bool
    notes: tuple[str, ...]


def plan(photograph: Photograph, format: str = 'same', quality: int | None = None
         ) -> Plan:
    """Chooses the format and says what is lost.

    Args:
      photograph: as read.
      format: 'same', 'png', 'jpg', 'webp' or 'tiff'. 'same' keeps PNG, TIFF, BMP,
        lossless WebP, and JPEG with its tables; GIF, HEIC, AVIF and WebP of unknown
        quality become PNG.
      quality: 1 to 100 of JPEG and WebP; None is the input's tables, lossless WebP.

    Raises:
      CannotHold: JPEG was asked for and the picture has transparency.
      ValueError: unknown format or quality.
    """
    if quality is not None and not 1 <= quality <= 100:
        raise ValueError(f'quality={quality}: expected 1 to 100')
    notes = list(photograph.notes)
    deep = photograph.samples.dtype != np.uint8
    if format == 'same':
        kept = photograph.format in _KEPT or (
            photograph.format == 'WEBP' and (photograph.lossless or quality))
        name = photograph.format if kept else 'PNG'
        if photograph.format == 'BMP' and photograph.has_alpha:
            name = 'PNG'
        suffix = _KEPT.get(name, '.webp')
        if name != photograph.format:
            notes.append(f'{photograph.format} became {name}')
    elif format in FORMATS:
        name, suffix = FORMATS[format]
    else:
        raise ValueError(f'format={format!r}: expected one of same, '
                         f'{", ".join(FORMATS)}')
    if photograph.samples.dtype == np.float32 and name == 'PNG':
        notes.append('floating-point samples became 16 bits')
    elif deep and name not in ('PNG', 'TIFF'):
        notes.append(f'{name} holds 8 bits, the picture has more')
    lossless = name in ('PNG', 'TIFF', 'BMP') or name == 'WEBP' and not quality
    if name == 'JPEG' and photograph.has_alpha:
        if int(photograph.samples[..., -1].min()) != _opaque(photograph.samples.dtype):
            raise CannotHold(f'{photograph.name}: JPEG has no transparency, and the '
                             'picture has; write png, webp or tiff')
    if not lossless:
        how = ('with the tables of the input' if name == 'JPEG' and photograph.jpeg
               and not quality else f'at quality {quality or _QUALITY}')
        notes.append(f'{name} is lossy: it was encoded anew {how}, so pixels outside '
                     'the hole are close to those of the input and not their bytes')
    return Plan(name, suffix, lossless, tuple(notes))


def with_painting(photograph: Photograph, levels: np.ndarray, painted: np.ndarray,
                  box: tuple[int, int, int, int] | None = None, seed: int = 0
                  ) -> Photograph:
    """A photograph with new colours where something was painted.

    Args:
      photograph: as read.
      levels: u8 or f32 [h, w, 3], sRGB, 0 to 255.
      painted: bool[h, w], True where `levels` replaces the picture; all other samples,
        and transparency everywhere, stay as they are.
      box: (top, bottom, left, right) of `levels` in the picture; all of it by default.
      seed: of the dither.

    Raises:
      ValueError: shapes that do not fit, or see `colour.of_srgb`.
    """
    top, bottom, left, right = box or (0, photograph.size[0], 0, photograph.size[1])
    shape = (bottom - top, right - left)
    if levels.shape != (*shape, 3) or painted.shape != shape:
        raise ValueError(f'levels of {list(levels.shape)} and painted of '
                         f'{list(painted.shape)} do not fill the box {list(shape)}')
    samples = photograph.samples.copy()
    replace(photograph, samples, levels, painted, (top, left), seed)
    return dataclasses.replace(photograph, samples=samples)


def replace(photograph: Photograph, samples: np.ndarray, levels: np.ndarray,
            painted: np.ndarray, corner: tuple[int, int], seed: int = 0) -> None:
    """`with_painting` into an array of samples of one's own.

    Args:
      photograph: gives depth and profile.
      samples: changed in place.
      levels, painted: as of `with_painting`.
      corner: (top, left) of them.
      seed: of the dither.
    """
    (top, left), (height, width) = corner, painted.shape
    if not painted.any():
        return
    colours = samples.shape[2] - photograph.has_alpha
    target = samples[top:top + height, left:left + width, :colours]
    rng = np.random.Generator(np.random.Philox([seed, top, left]))
    new = colour.of_srgb(levels, photograph, rng)
    target[painted] = new[painted]


def encode(photograph: Photograph, how: Plan, quality: int | None = None) -> bytes:
    """The bytes of the file.

    Raises:
      MissingExtra: imagecodecs is not installed (PNG of 16 bits and several channels).
    """
    samples = photograph.samples
    if how.format not in ('PNG', 'TIFF'):
        samples = colour.to_levels(samples)
        if how.format == 'JPEG' and photograph.has_alpha:
            samples = samples[..., :-1]
    elif how.format == 'PNG' and samples.dtype == np.float32:
        samples = np.rint(samples * 65535).astype(np.uint16)
    if how.format == 'PNG':
        return _png(photograph, samples)
    if how.format == 'TIFF' and samples.dtype != np.uint8:
        return _deep_tiff(photograph, samples)
    options = _metadata(photograph)
    if how.format == 'JPEG':
        options |= _jpeg_options(photograph, quality)
    elif how.format == 'WEBP':
        options |= ({'quality': quality} if quality else
                    {'lossless': True, 'exact': True, 'quality': 50})
    elif how.format == 'TIFF':
        # Pillow's compressing writer has no place for EXIF.
        if not photograph.exif:
            options['compression'] = 'tiff_adobe_deflate'
    else:
        # 0 is "not said"; Pillow would say 96.
        options = {'dpi': photograph.dpi or (0, 0)}
    buffer = io.BytesIO()
    _image(samples).save(buffer, how.format, **options)
    return buffer.getvalue()


def write(photograph: Photograph, path: str | os.PathLike, how: Plan, quality: int | None = None
          ) -> None:
    """Writes the file; `path` is either complete or what it was before."""
    storage.write_atomically(path, encode(photograph, how, quality))


def to_pillow(photograph: Photograph) -> Image.Image:
    """A picture in memory, with profile, EXIF, XMP, resolution and text in its `info`.

    Returns:
      An image of mode L, LA, RGB or RGBA (8 bits), I;16 or F (one channel).

    Raises:
      ValueError: 16 bits or floats of several channels, for which Pillow has no mode.
    """
    if photograph.samples.dtype != np.uint8 and photograph.samples.shape[2] > 1:
        raise ValueError(f'{photograph.name}: Pillow has no pictures of '
                         f'{photograph.samples.dtype} with several channels')
    image = _image(photograph.samples)
    image.info = _metadata(photograph) | photograph.text
    return image


def _opaque(dtype):
    return {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}.get(dtype, 1)


def _image(samples):
    return Image.fromarray(samples[..., 0] if samples.shape[2] == 1 else samples)


def _metadata(photograph):
    """What Pillow's writers take of what the file held."""
    options = {'icc_profile': photograph.profile, 'exif': photograph.exif,
               'dpi': photograph.dpi, 'xmp': photograph.xmp}
    return {name: value for name, value in options.items() if value}


def _jpeg_options(photograph, quality):
    jpeg = photograph.jpeg
    if jpeg is None or quality is not None:
        return {'quality': quality or _QUALITY, 'subsampling': 0 if quality is None
                else -1, 'optimize': True}
    return {'qtables': jpeg.quantisation, 'quality': -1,
            'subsampling': max(jpeg.subsampling, -1), 'progressive': jpeg.progressive,
            'optimize': True}


def _png(photograph, samples):
    """Pillow writes the metadata, and the pixels where it can."""
    options = _metadata(photograph)
    options.pop('xmp', None)
    info = PngImagePlugin.PngInfo()
    for chunk in photograph.png_colour:
        info.add(*chunk)
    for keyword, text in photograph.text.items():
        if isinstance(text, PngImagePlugin.iTXt):
            info.add_itxt(keyword, text, text.lang or '', text.tkey or '')
        else:
            info.add_text(keyword, text)
    if photograph.xmp:
        info.add_itxt('XML:com.adobe.xmp', photograph.xmp.decode('utf-8', 'replace'))
    buffer = io.BytesIO()
    if samples.dtype == np.uint8 or samples.shape[2] == 1:
        _image(samples).save(buffer, 'PNG', pnginfo=info, **options)
        return buffer.getvalue()
    with extras.needs('photo', 'Writing PNG files of 16 bits'):
        import imagecodecs

    Image.new('RGB', (1, 1)).save(buffer, 'PNG', pnginfo=info, **options)
    pixels = imagecodecs.png_encode(np.ascontiguousarray(samples))
    described = [chunk for chunk in photographs.png_chunks(buffer.getvalue())
                 if chunk[0] != b'IHDR']
    # After the header, whose length never varies: 8 + 25 bytes.
    return pixels[:33] + b''.join(_chunk(*chunk) for chunk in described) + pixels[33:]


def _chunk(kind, body):
    checksum = zlib.crc32(kind + body)
    return len(body).to_bytes(4, 'big') + kind + body + checksum.to_bytes(4, 'big')


def _deep_tiff(photograph, samples):
    import tifffile

    tags = []
    if photograph.exif:
        exif = Image.Exif()
        exif.load(photograph.exif)
        # ASCII tags of the main directory: all that tifffile writes.
        tags = [(code, 's', 0, value, True) for code, value in exif.items()
                if code in (270, 271, 272, 305, 306, 315, 33432)
                and isinstance(value, str)]
    if photograph.xmp:
        tags.append((700, 'B', len(photograph.xmp), photograph.xmp, True))
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer, samples[..., 0] if samples.shape[2] == 1 else samples,
        photometric='minisblack' if photograph.is_grey else 'rgb',
        planarconfig=None if samples.shape[2] == 1 else 'contig',
        extrasamples=['unassalpha'] if photograph.has_alpha else None,
        compression='zlib', iccprofile=photograph.profile, resolution=photograph.dpi,
        resolutionunit='INCH' if photograph.dpi else None, extratags=tags,
        software=False, metadata=None)
    return buffer.getvalue()
