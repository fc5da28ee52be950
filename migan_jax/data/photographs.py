"""One picture file with everything that it holds besides its colours.

`images.decode` gives what a network is trained on, u8[H, W, 3]; here nothing is lost on the
way: samples keep their depth, grey stays grey, transparency stays, and the profile, EXIF,
resolution and text come along, so that `photograph_files.write` can put them back.

The format is found in the file's bytes; its name is not looked at. Pillow reads most files.
TIFF files of 16 or 32 bits a sample are read by tifffile, PNG files of 16 bits a sample by
imagecodecs, HEIC by pillow-heif; the extra `photo` brings the last two.
"""

from collections.abc import Iterator
import dataclasses
import io
import os
import re

import numpy as np
from PIL import Image
from PIL import ImageCms
from PIL import JpegImagePlugin

from migan_jax.data import images
from migan_jax.storage import shown

# Pillow's own names, and 'HEIC'.
FORMATS = ('JPEG', 'PNG', 'WEBP', 'TIFF', 'BMP', 'GIF', 'AVIF', 'PPM', 'HEIC')

# What describes a picture and not how its samples are stored: description, make, model,
# software, time, artist, XMP, copyright, IPTC, EXIF and GPS.
_TIFF_TAGS = (270, 271, 272, 305, 306, 315, 700, 33432, 33723, 34665, 34853)
# Chunks of a PNG file that say what its colours are where it has no profile.
_PNG_COLOUR = (b'gAMA', b'cHRM', b'sRGB', b'cICP')
_XMP_ORIENTATION = re.compile(
    rb'(<tiff:Orientation>|tiff:Orientation=["\'])[2-8]')


@dataclasses.dataclass(frozen=True)
class JpegTables:
    """How a JPEG file was written, so that another can be written alike.

    Attributes:
      quantisation: {table: 64 levels}.
      subsampling: Pillow's number: 0 is 4:4:4, 1 is 4:2:2, 2 is 4:2:0, -1 another.
      progressive: whether it is a progressive file.
    """
    quantisation: dict[int, list[int]]
    subsampling: int
    progressive: bool


@dataclasses.dataclass(frozen=True)
class Photograph:
    """What a picture file holds, upright: its EXIF orientation is applied and reset.

    Attributes:
      samples: [H, W, C], C = 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha; u8 (0 to
        255), u16 (0 to 65535) or f32 (0 to 1), in the colours of `profile`.
      name: for messages.
      format: one of `FORMATS`.
      lossless: whether that format, as it was used, keeps samples as they are.
      orientation: EXIF orientation that was applied, 1 to 8; 1 changes nothing.
      profile: ICC profile, or None.
      exif: EXIF data, orientation reset, without preview; b'' if there is none.
      xmp: XMP data, orientation reset; b'' if there is none.
      dpi: (horizontal, vertical) pixels per inch, or None.
      text: {keyword: text} of a PNG file.
      jpeg: of a JPEG file.
      png_colour: chunks of a PNG file that describe colours without a profile.
      notes: what could not be kept, in sentences.
    """
    samples: np.ndarray
    name: str
    format: str
    lossless: bool
    orientation: int = 1
    profile: bytes | None = None
    exif: bytes = b''
    xmp: bytes = b''
    dpi: tuple[float, float] | None = None
    text: dict[str, str] = dataclasses.field(default_factory=dict)
    jpeg: JpegTables | None = None
    png_colour: tuple[tuple[bytes, bytes], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) as it is shown."""
        return self.samples.shape[:2]

    @property
    def stored_size(self) -> tuple[int, int]:
        """(height, width) before the EXIF orientation was applied."""
        height, width = self.size
        return (width, height) if self.orientation >= 5 else (height, width)

    @property
    def has_alpha(self) -> bool:
        return self.samples.shape[2] in (2, 4)

    @property
    def is_grey(self) -> bool:
        return self.samples.shape[2] in (1, 2)


def read(path: str | os.PathLike, *, max_pixels: int = images.MAX_PIXELS) -> Photograph:
    """Reads a picture file.

    Args:
      path: of the file.
      max_pixels: larger pictures are refused before they are decoded.

    Raises:
      images.UnreadableImage: not a picture of a known format, damaged, too large, with
        samples of no defined range; or a package that reads it is not installed.
    """
    name = shown(path)
    with images.errors_as_unreadable(name):
        images.check_regular(path, name)
        with open(path, 'rb') as file:
            start = file.read(64)
        if start[:8] == b'\x89PNG\r\n\x1a\n' and start[24] == 16 and start[25] != 0:
            return _of_deep_png(path, name, max_pixels)
        if start[:4] in (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+'):
            deep = _of_deep_tiff(path, name, max_pixels)
            if deep is not None:
                return deep
        with images.open_with_pillow(path, name, max_pixels) as image:
            return _of_pillow(image, name, start)


def turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """[H, W, ...] as stored -> as shown, by EXIF orientation 1 to 8."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _of_pillow(image, name, start):
    """`Photograph` of what Pillow opened."""
    # MPO is what cameras write that put several pictures into one JPEG file.
    format_ = {'MPO': 'JPEG'}.get(image.format, image.format)
    jpeg = None
    if format_ == 'JPEG':
        jpeg = JpegTables(
            {table: list(levels) for table, levels in image.quantization.items()},
            JpegImagePlugin.get_sampling(image) if image.layers == 3 else -1,
            bool(image.info.get('progressive')))
    held = of_pillow(image, name)
    return dataclasses.replace(
        held, format=format_, lossless=_is_lossless(format_, image, start), jpeg=jpeg,
        png_colour=_png_colour(image))


def of_pillow(image: Image.Image, name: str) -> Photograph:
    """What a picture in memory holds; `read` without what is a file's alone.

    Args:
      image: of any mode; it stays as it is.
      name: for messages.

    Raises:
      ValueError: samples of no defined range, or a profile of CMYK that can't be used.
      OSError, SyntaxError and more of Pillow's: it is yet to be read, and damaged.
    """
    image.load()
    notes = []
    profile = image.info.get('icc_profile') or None
    samples, profile = _samples(image, profile, notes)
    orientation = images.orientation_of(image)
    text = dict(getattr(image, 'text', None) or {})
    text.pop('XML:com.adobe.xmp', None)
    return Photograph(
        turn(samples, orientation), name, 'PNG', True, orientation, profile,
        _exif(image), _xmp(image), _dpi(image), text, notes=tuple(notes))


def _samples(image, profile, notes):
    """u8 or u16 [H, W, C] of a Pillow image, and the profile that they are in."""
    mode = image.mode
    if mode == 'I' or mode.startswith('I;16'):
        levels = np.asarray(image).astype(np.int64)
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError(
                f'integer samples from {levels.min()} to {levels.max()}, expected 16 '
                'bits (0 to 65535); save it with 8 or 16 bits')
        return levels.astype(np.uint16)[..., None], profile
    if mode == 'F':
        return _floats(np.asarray(image)[..., None]), profile
    if mode == 'CMYK':
        if profile is not None:
            image, profile = _of_cmyk(image, profile), None
        notes.append('CMYK became RGB')
        image = image.convert('RGB')
    elif mode in ('L', '1') and image.has_transparency_data:
        image = image.convert('LA')
    elif image.has_transparency_data:
        image = image.convert({'La': 'LA', 'LA': 'LA'}.get(mode, 'RGBA'))
    elif mode == '1':
        image = image.convert('L')
    elif mode not in ('L', 'RGB'):
        image = image.convert('RGB')
    levels = np.array(image)
    return levels.reshape(*levels.shape[:2], -1), profile


def _of_cmyk(image, profile):
    """A CMYK picture with its profile -> RGB in sRGB."""
    try:
        return ImageCms.profileToProfile(
            image, io.BytesIO(profile), ImageCms.createProfile('sRGB'),
            outputMode='RGB', flags=ImageCms.Flags.BLACKPOINTCOMPENSATION)
    except (ImageCms.PyCMSError, OSError) as error:
        raise ValueError(f'its CMYK profile cannot be used ({error}); convert it to '
                         'RGB') from error


def _floats(samples):
    """f32 in [0, 1]; ValueError otherwise. Written so that NaN fails."""
    samples = samples.astype(np.float32)
    low, high = float(samples.min()), float(samples.max())
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f'floating-point samples from {low:g} to {high:g}; expected 0 to 1: scale '
            'it, or save it with 8 or 16 bits')
    return samples


def _exif(image):
    """EXIF data without orientation and preview."""
    try:
        exif = image.getexif()
        if image.format == 'TIFF':
            described = Image.Exif()
            for tag in _TIFF_TAGS:
                if tag in exif and tag not in (700, 34665, 34853):
                    described[tag] = exif[tag]
            for tag in (34665, 34853):
                described.get_ifd(tag).update(exif.get_ifd(tag))
                if described.get_ifd(tag):
                    described[tag] = described.get_ifd(tag)
            exif = described
        # The image keeps its own: it may be the caller's.
        orientation = exif.get(images.EXIF_ORIENTATION)
        if orientation is not None:
            exif[images.EXIF_ORIENTATION] = 1
        # The preview (a second directory) would show what is to be painted over;
        # Pillow leaves it out.
        data = exif.tobytes() if len(exif) else b''
        if orientation is not None:
            exif[images.EXIF_ORIENTATION] = orientation
    except Exception:
        # Only the metadata is damaged (any of Pillow's parser errors, see
        # `images.decode`): the pixels are good as they are stored.
        return b''
    return data


def _xmp(image):
    """XMP data with the orientation reset."""
    xmp = image.info.get('xmp') or image.info.get('XML:com.adobe.xmp') or b''
    if isinstance(xmp, str):
        xmp = xmp.encode()
    return _XMP_ORIENTATION.sub(rb'\g<1>1', xmp) if isinstance(xmp, bytes) else b''


def _dpi(image):
    """(horizontal, vertical) pixels per inch that the file itself names, or None."""
    # Where a file says nothing, Pillow makes 1 up for TIFF, and 72 for JPEG with EXIF.
    if image.format == 'TIFF' and not {282, 283} <= set(image.tag_v2):
        return None
    if image.format in ('JPEG', 'MPO') and image.info.get('jfif_unit') not in (1, 2) and (
            282 not in image.getexif()):
        return None
    dpi = image.info.get('dpi')
    if not dpi or len(dpi) != 2 or not all(float(side) > 0 for side in dpi):
        return None
    return float(dpi[0]), float(dpi[1])


def _png_colour(image):
    if image.format != 'PNG' or 'icc_profile' in image.info:
        return ()
    with open(image.filename, 'rb') as file:
        data = file.read(2**16)
    return tuple((kind, body) for kind, body in png_chunks(data) if kind in _PNG_COLOUR)


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(kind, body) of the chunks of a PNG file that precede its pixels."""
    at = 8
    while at + 8 <= len(data):
        length = int.from_bytes(data[at:at + 4], 'big')
        kind = data[at + 4:at + 8]
        if kind in (b'IDAT', b'IEND'):
            return
        yield kind, data[at + 8:at + 8 + length]
        at += 12 + length


def _is_lossless(format_, image, start):
    if format_ == 'WEBP':
        # The kind of the first chunk; an extended file says it further on.
        return start[12:16] == b'VP8L' or b'VP8L' in _head(image.filename)
    if format_ == 'TIFF':
        return image.info.get('compression') != 'jpeg'
    return format_ not in ('JPEG', 'AVIF', 'HEIC')


def _head(path):
    """The part of a WebP file before its pixels, long profiles included."""
    with open(path, 'rb') as file:
        data = file.read(2**22)
    at, kinds = 12, []
    while at + 8 <= len(data):
        kinds.append(data[at:at + 4])
        length = int.from_bytes(data[at + 4:at + 8], 'little')
        at += 8 + length + length % 2
    return b' '.join(kinds)


def _needed(package, what):
    return images.UnreadableImage(
        f"{what}; to read it, install {package}: pip install 'migan_jax[photo]'")


def _of_deep_png(path, name, max_pixels):
    """A PNG file with two bytes a sample and several samples a pixel."""
    try:
        import imagecodecs
    except ImportError as error:
        raise _needed('imagecodecs', f'{name}: a PNG picture of 16 bits') from error
    with images.open_with_pillow(path, name, max_pixels) as image:
        held = _of_pillow(image, name, b'')
    with open(path, 'rb') as file:
        samples = imagecodecs.png_decode(file.read())
    samples = samples.reshape(*samples.shape[:2], -1)
    return dataclasses.replace(
        held, samples=turn(samples, held.orientation), lossless=True)


def _of_deep_tiff(path, name, max_pixels):
    """A TIFF file of 16 or 32 bits a sample; None if it is none."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        if page.dtype is None or page.dtype.itemsize == 1:
            return None
        images.check_pixels(name, page.imagewidth, page.imagelength, max_pixels)
        if page.photometric not in (1, 2):
            raise ValueError(
                f'a TIFF file of {page.bitspersample} bits with the colours '
                f'{page.photometric.name}; save it as grey or RGB')
        try:
            samples = page.asarray()
        except ValueError as error:
            if 'imagecodecs' not in str(error):
                raise
            raise _needed(
                'imagecodecs', f'{name}: a TIFF file compressed with '
                f'{page.compression.name}') from error
        if page.planarconfig == 2 and samples.ndim == 3:
            samples = np.moveaxis(samples, 0, -1)
        samples = samples.reshape(page.imagelength, page.imagewidth, -1)
        if samples.dtype.kind == 'f':
            samples = _floats(samples)
        elif samples.dtype != np.uint16:
            raise ValueError(f'samples of {samples.dtype}; save it with 8 or 16 bits')
        expected = (1, 2) if page.photometric == 1 else (3, 4)
        if samples.shape[2] not in expected:
            raise ValueError(f'{samples.shape[2]} samples a pixel, expected one of '
                             f'{expected}; save it as grey or RGB')
        return _tiff_photograph(page, samples, name)


def _tiff_photograph(page, samples, name):
    tags = {tag.code: tag.value for tag in page.tags}
    orientation = int(tags.get(274, 1))
    exif = Image.Exif()
    for tag in _TIFF_TAGS:
        if isinstance(tags.get(tag), str):
            exif[tag] = tags[tag]
    notes = []
    if 34665 in tags or 34853 in tags:
        notes.append('EXIF beyond its main directory could not be kept')
    dpi = None
    if 282 in tags and 283 in tags and tags.get(296, 2) in (2, 3):
        scale = 2.54 if tags.get(296, 2) == 3 else 1.0
        sides = [tags[code][0] / max(tags[code][1], 1) * scale for code in (282, 283)]
        dpi = tuple(sides) if all(sides) else None
    xmp = tags.get(700, b'')
    return Photograph(
        turn(samples, orientation), name, 'TIFF', True, orientation,
        tags.get(34675) or None, exif.tobytes() if len(exif) else b'',
        _XMP_ORIENTATION.sub(rb'\g<1>1', bytes(xmp)) if xmp else b'', dpi,
        notes=tuple(notes))


