"""One image file -> u8[H, W, 3], and the resizing that everything shares.

Without JAX. Training, evaluation and the command line tools decode and
squash with these functions, so that they agree on what a file looks like.

What a file's pixels become:

* grayscale, palette, 1-bit, YCbCr, CMYK (JPEG: inverted, as Adobe writes it): RGB as
  Pillow converts it;
* transparency (alpha channel, transparent palette entry or colour): composited on
  white, because the colours stored under transparent pixels are arbitrary;
* 16-bit grayscale: divided by 257 and rounded, so 65535 is 255 and nothing clips;
* EXIF orientation: applied;
* several frames (animations, several pages): the first one.

Plain JPEG files, nearly all of what one trains on, are decoded by simplejpeg, straight
into an array: the pixels are those of Pillow, in half its time and without Python's lock.

What a file's name says of its format is not looked at, and nothing is opened that is
not a regular file: a pipe would never end.
"""

import collections
from collections.abc import Iterable, Iterator
import contextlib
import io
import os
import pathlib
import stat
from typing import BinaryIO
import unicodedata

import numpy as np
from PIL import Image
import simplejpeg

from migan_jax import storage
from migan_jax.storage import shown

# Pillow warns beyond this size and refuses beyond twice of it.
MAX_PIXELS = 89_478_485

# What a folder or a zip is searched for.
SUFFIXES = ('.jpg', '.jpeg', '.png', '.webp', '.tif', '.tiff', '.bmp', '.gif', '.avif',
            '.heic', '.heif')
# Folders of previews that storage boxes, archives and desktops put beside pictures.
PREVIEWS = ('@eaDir', '__MACOSX', '.thumbnails')

# Larger JPEG files are left to Pillow, which reads piece by piece.
_MAX_JPEG_BYTES = 2**26
# Start of image, then a segment.
_JPEG = b'\xff\xd8\xff'
# These words stand in EXIF and XMP data, which may turn the picture, and in files with
# several pictures.
_NOT_PLAIN = (b'Exif\0\0', b'Orientation', b'MPF\0')

# Only these decoders see a file's bytes, whatever its name says: among Pillow's other
# ones are some that start external programs.
_FORMATS = ('JPEG', 'PNG', 'WEBP', 'BMP', 'GIF', 'PPM', 'TIFF', 'AVIF')

_HEIC_BRANDS = (b'heic', b'heix', b'hevc', b'hevx', b'heim', b'heis', b'mif1', b'msf1')

EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableImage(ValueError):
    """An image that cannot be used; the message names it and says why."""


def decode(file: str | os.PathLike | BinaryIO, name: str | None = None, *,
           max_pixels: int = MAX_PIXELS, min_side: int = 0) -> np.ndarray:
    """Reads one image as RGB (see the top of this file for the conversions).

    Args:
        file: a path, or a binary file object that can seek.
        name: what error messages call it; the path by default.
        max_pixels: larger images are refused before they are decoded. Pillow itself
            refuses more than 178,956,970 pixels.
        min_side: 0 decodes in full. A positive value lets JPEG files decode at 1/2,
            1/4 or 1/8 of their size, several times faster, as long as the shorter side
            stays at least this long. Pixels then differ slightly from a full decode
            that is scaled down later: for training only.

    Returns:
        u8[H, W, 3].

    Raises:
        UnreadableImage: not an image of a known format, damaged, truncated, missing,
            too large, or without a defined conversion to RGB.
    """
    pixels = _plain_jpeg(file, max_pixels, min_side)
    if pixels is not None:
        return pixels
    with _opened(file, name, max_pixels) as image:
        if min_side and image.format == 'JPEG':
            image.draft(None, (min_side, min_side))
        image.load()
        return np.array(to_rgb(_upright(image)))


def _plain_jpeg(file, max_pixels, min_side):
    """u8[H, W, 3] of an undamaged, upright colour JPEG file, else None.

    What this does not decode, and why a file cannot be read, is Pillow's to say.
    Arguments as for `decode`.
    """
    try:
        data = _jpeg_bytes(file)
        header = data and _jpeg_header(data)
        # Pillow knows how to deal with rotations and with other pictures in the same file.
        if header is None or any(word in header for word in _NOT_PLAIN):
            return None
        height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
        if colors not in ('YCbCr', 'RGB') or height * width > max_pixels:
            return None
        # As Pillow's `draft`; the decoder knows more scales, and in tiny images another
        # one may fit.
        room = min(height, width) // min_side if min_side else 1
        scale = next((scale for scale in (8, 4, 2) if room >= scale), 1)
        height, width = -(-height // scale), -(-width // scale)
        pixels = simplejpeg.decode_jpeg(data, 'RGB', min_height=height, min_width=width)
        return pixels if pixels.shape == (height, width, 3) else None
    except (OSError, ValueError):
        return None


def _jpeg_bytes(file):
    """The bytes of a JPEG file that is not too long, else None; see `decode`."""
    if isinstance(file, (str, os.PathLike)):
        status = os.stat(file)
        # A pipe would never end.
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_JPEG_BYTES:
            return None
        with open(file, 'rb', buffering=0) as opened:
            start = opened.read(len(_JPEG))
            return start + opened.readall() if start == _JPEG else None
    file.seek(0)
    if file.read(len(_JPEG)) != _JPEG:
        return None
    file.seek(0)
    data = file.read(_MAX_JPEG_BYTES + 1)
    return data if len(data) <= _MAX_JPEG_BYTES else None


def _jpeg_header(data):
    """What precedes the compressed pixels; None if it is not segment after segment."""
    at = 2
    while True:
        start = data[at:at + 4]
        length = int.from_bytes(start[2:], 'big')
        if len(start) < 4 or start[0] != 0xff or start[1] == 0xff or length < 2:
            return None
        if start[1] == 0xda:
            return data[:at]
        at += 2 + length


def stored_size(file: str | os.PathLike | BinaryIO, *, max_pixels: int = MAX_PIXELS
                ) -> tuple[int, int]:
    """(width, height) of an image file before EXIF rotation, from its header alone.

    Arguments and errors as for `decode`; damage beyond the header goes unnoticed.
    """
    with _opened(file, None, max_pixels) as image:
        return image.size


@contextlib.contextmanager
def _opened(file, name, max_pixels):
    """Pillow's image; all that goes wrong in the body is an `UnreadableImage`."""
    name = shown(file if name is None else name)
    with errors_as_unreadable(name):
        if isinstance(file, (str, os.PathLike)):
            check_regular(file, name)
        with open_with_pillow(file, name, max_pixels) as image:
            yield image


@contextlib.contextmanager
def errors_as_unreadable(name: str) -> Iterator[None]:
    """All that goes wrong in the body is an `UnreadableImage`.

    Args:
        name: what the message calls the image.
    """
    try:
        yield
    except (UnreadableImage, MemoryError):
        raise
    except Exception as error:
        # On damaged files Pillow's parsers raise whatever they trip over: OSError,
        # SyntaxError, struct.error, IndexError, DecompressionBombError and more.
        raise UnreadableImage(
            f'{name}: cannot read it as an image '
            f'({type(error).__name__}: {shown(str(error))})') from error


def check_regular(path: str | os.PathLike, name: str) -> None:
    """Refuses what is no regular file: a pipe would never end."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise UnreadableImage(f'{name}: not a regular file')


def check_pixels(name: str, width: int, height: int, max_pixels: int) -> None:
    """Refuses pictures that are too large, before they are decoded."""
    if width * height > max_pixels:
        raise UnreadableImage(
            f'{name}: {width} x {height} pixels, more than the {max_pixels:,} allowed; '
            'scale it down, or in training raise data.max_pixels')


@contextlib.contextmanager
def open_with_pillow(file: str | os.PathLike | BinaryIO, name: str, max_pixels: int
                     ) -> Iterator[Image.Image]:
    """Pillow's image of one of the formats that are known here, not too large."""
    if _is_heic(file):
        yield open_heic(file, name, max_pixels)
        return
    with Image.open(file, formats=_FORMATS) as image:
        check_pixels(name, *image.size, max_pixels)
        yield image


def _is_heic(file):
    """Whether a file is HEIC; AVIF, its relative, is not. A file object is rewound."""
    if isinstance(file, (str, os.PathLike)):
        with open(file, 'rb') as opened:
            start = opened.read(12)
    else:
        file.seek(0)
        start = file.read(12)
        file.seek(0)
    return start[4:8] == b'ftyp' and start[8:12] in _HEIC_BRANDS


def open_heic(file: str | os.PathLike | BinaryIO, name: str, max_pixels: int) -> Image.Image:
    """Pillow's image of a HEIC file, upright, decoded.

    Raises:
        UnreadableImage: too large, or pillow-heif is not installed.
    """
    try:
        import pillow_heif
    except ImportError as error:
        raise UnreadableImage(
            f"{name}: a HEIC picture; to read it, install pillow-heif: pip install "
            "'migan_jax[photo]'") from error
    opened = pillow_heif.open_heif(file)
    check_pixels(name, *opened.size, max_pixels)
    image = opened.to_pillow()
    image.load()
    # libheif has turned the picture already; what EXIF says of it counts no more.
    pillow_heif.set_orientation(image.info)
    image.format = 'HEIC'
    return image


def orientation_of(image: Image.Image) -> int:
    """EXIF orientation of a Pillow image, 1 to 8; 1 where it is damaged or missing."""
    try:
        orientation = image.getexif().get(EXIF_ORIENTATION, 1)
    except Exception:
        # Only the metadata is damaged (any of Pillow's parser errors, see `decode`):
        # the pixels are good as they are stored.
        return 1
    return orientation if orientation in range(1, 9) else 1


def _upright(image):
    transpose = _UPRIGHT.get(orientation_of(image))
    return image if transpose is None else image.transpose(transpose)


def to_rgb(image: Image.Image) -> Image.Image:
    """A Pillow image of any mode -> mode RGB, as the top of this file says.

    Raises:
        ValueError: floating-point pixels or integers beyond 16 bits, whose range
            nothing defines, or a mode that Pillow does not convert.
    """
    if image.mode == 'RGB' and not image.has_transparency_data:
        return image
    if image.mode == 'I' or image.mode.startswith('I;16'):
        pixels = np.asarray(image).astype(np.int32)
        if pixels.min() < 0 or pixels.max() > 65535:
            raise ValueError(
                f'integer pixels from {pixels.min()} to {pixels.max()}, expected 16 '
                'bits (0 to 65535); save it with 8 or 16 bits')
        gray = ((pixels + 128) // 257).astype(np.uint8)
        return Image.fromarray(gray).convert('RGB')
    if image.mode == 'F':
        raise ValueError(
            'floating-point pixels have no defined range; save it with 8 or 16 bits')
    if image.has_transparency_data:
        # The detour makes premultiplied modes straight.
        image = image.convert({'La': 'LA'}.get(image.mode, 'RGBA')).convert('RGBA')
        white = Image.new('RGBA', image.size, 'white')
        return Image.alpha_composite(white, image).convert('RGB')
    return image.convert('RGB')


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """u8[h, w, 3] -> u8[height, width, 3], bicubic, antialiased (Pillow's BICUBIC).

    An image of that size already is returned as it is, not copied.
    """
    if image.shape[:2] == (height, width):
        return image
    return np.array(
        Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def squash(image: np.ndarray, resolution: int) -> np.ndarray:
    """The whole image, its aspect ratio ignored: u8[h, w, 3] -> u8[R, R, 3]."""
    return resize(image, resolution, resolution)


def center_square(image: np.ndarray) -> np.ndarray:
    """The largest centred square: [h, w, c] -> [s, s, c] with s = min(h, w), a view."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top:top + side, left:left + side]


def random_square(image: np.ndarray, min_crop: float, rng: np.random.Generator) -> np.ndarray:
    """A random square: [h, w, c] -> [s, s, c], a view.

    The side is uniform in [min_crop, 1] times the shorter side (at least one pixel),
    its place uniform over the image. `rng`, a numpy Generator, gives three numbers.
    """
    height, width = image.shape[:2]
    u, v, w = rng.random(3)
    side = max(1, round(min(height, width) * (min_crop + (1 - min_crop) * u)))
    top = int(v * (height - side + 1))
    left = int(w * (width - side + 1))
    return image[top:top + side, left:left + side]


def walk(folder: str | os.PathLike) -> Iterator[str]:
    """Finds the files of a folder and of the folders in it, hidden ones left out.

    Links to folders are followed, after the folders that lie in `folder` themselves.
    Every folder is entered once, however many links lead to it, so that no loop and no
    maze of links takes longer than what is there.

    Args:
        folder: path of the folder.

    Yields:
        Paths relative to `folder`, "/" between the parts, in no order. Broken links and
        what is neither file nor folder are among them, for `decode` to refuse by name.

    Raises:
        ValueError: a folder cannot be listed.
    """
    inside, links, entered = [''], collections.deque(), set()
    while inside or links:
        prefix = inside.pop() if inside else links.popleft()
        path = os.path.join(folder, prefix)
        try:
            status = os.stat(path)
            if (status.st_dev, status.st_ino) in entered:
                continue
            entered.add((status.st_dev, status.st_ino))
            folders = []
            with os.scandir(path) as entries:
                for entry in entries:
                    if entry.name.startswith('.') or entry.name in PREVIEWS:
                        continue
                    if _is_folder(entry):
                        folders.append((f'{prefix}{entry.name}/', entry.is_symlink()))
                    else:
                        yield f'{prefix}{entry.name}'
        except OSError as error:
            raise ValueError(
                f'{shown(path)}: cannot list this folder ({error.strerror}); make it '
                'readable or move it away') from error
        # Sorted, so that the name under which a folder is entered never varies.
        for name, is_link in sorted(folders):
            (links if is_link else inside).append(name)


def _is_folder(entry):
    try:
        return entry.is_dir()
    except OSError:  # A link that leads to itself.
        return False


def stem_of(name: str) -> str:
    """A file's name without extension, `composed`."""
    return composed(os.path.splitext(name)[0])


def composed(name: str) -> str:
    """A name as it is compared and remembered (NFC).

    macOS decomposes accents in names, other systems do not: both are one name.
    """
    return unicodedata.normalize('NFC', name)


def other_kinds(names: Iterable[str]) -> str:
    """Files that are no images, counted by their suffix, for a message; '' if none."""
    kinds = collections.Counter(
        os.path.splitext(name)[1].lower() or 'no suffix' for name in names
        if not name.lower().endswith((*SUFFIXES, '/')))
    return ', '.join(f'{shown(kind)} ({n})' for kind, n in sorted(kinds.items())[:20])


def by_stem(folder: str | os.PathLike) -> dict[str, pathlib.Path]:
    """Finds the images of a folder and of the folders in it, see `walk`.

    Args:
        folder: path of the folder.

    Returns:
        {stem: path}, sorted; a stem is the path relative to the folder, without
        extension, with "/" between the parts.

    Raises:
        ValueError: no such folder, no image in it, or images that share a stem; all
            of those are listed.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise ValueError(f'{shown(folder)}: no such file or folder')
    found, clashes = {}, []
    for name in sorted(walk(folder), key=lambda name: name.split('/')):
        if not name.lower().endswith(SUFFIXES):
            continue
        path, stem = folder / name, stem_of(name)
        if stem in found:
            first, second = shown(found[stem]), shown(path)
            clashes.append(
                f'{shown(folder)}: {shown(found[stem].name)} and {shown(path.name)} '
                f'differ only in their extension ({first}, {second}); rename or remove '
                'one')
        found[stem] = path
    if clashes:
        raise ValueError('\n'.join(clashes))
    if not found:
        raise ValueError(f'{shown(folder)}: no image in this folder (looked for '
                         f'{", ".join(s[1:] for s in SUFFIXES)})')
    return found


def png(pixels: np.ndarray) -> bytes:
    """u8[H, W, 3] or u8[H, W] as the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, 'PNG')
    return buffer.getvalue()


def write_png(pixels: np.ndarray, path: str | os.PathLike) -> None:
    """Writes u8[H, W, 3] or u8[H, W]; `path` is either complete or what it was before."""
    storage.write_atomically(path, png(pixels))
