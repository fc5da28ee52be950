"""Masks as people hand them over: levels of grey, one file or a folder of files.

Mask polarity: 255 (white) = known, 0 (black) = hole, unless `invert` says otherwise.
"""

from collections.abc import Mapping, Sequence
import os
import pathlib
import re

import numpy as np

from migan_jax.data import drawn_masks
from migan_jax.data.drawn_masks import NotAMask
from migan_jax.data import images as image_files
from migan_jax.data import sources
from migan_jax import storage

# JPEG puts up to a tenth of a brush mask's pixels a few levels off 0 and 255, but at
# most a hundredth (quality 50) into the middle of the range. A photograph has over
# half of its pixels there.
MIDDLE = (32, 224)
MAX_MIDDLE = 0.05

# Beyond this share of hole in all masks together the polarity is worth a word.
SUSPICIOUS_HOLE = 0.7

# What a mask's name may have after that of its image.
_SUFFIX = re.compile(r'_mask\d*$')


def as_read(inverted: bool) -> str:
    """How tools read colours, and with which flag they read them the other way round."""
    colours, remedy = (
        ('white = hole, black = known', 'drop --invert_mask') if inverted else
        ('white = known, black = hole', 'pass --invert_mask'))
    return f'{colours}; if it is the other way round, {remedy}'


def mostly_hole(what: str, share: float, inverted: bool) -> list[str]:
    """A sentence if masks look as if the other polarity was meant, else none.

    Args:
        what: masks they are, such as 'the masks'.
        share: of hole in them.
        inverted: whether white was read as hole.
    """
    if share <= SUSPICIOUS_HOLE:
        return []
    return [f'{share:.0%} of {what} is hole ({as_read(inverted)})']


def known_of(levels: np.ndarray) -> tuple[np.ndarray, int]:
    """Levels 0 to 255 of any shape, 255 = known, to a mask.

    Returns:
        bool of the same shape, True (128 and above) = known, and the number of pixels
        that are neither 0 nor 255.

    Raises:
        NotAMask: 5 % of the pixels or more are mid-grey, so it is no mask.
    """
    between = int(np.count_nonzero((levels != 0) & (levels != 255)))
    middle = np.count_nonzero((levels >= MIDDLE[0]) & (levels < MIDDLE[1]))
    if middle >= MAX_MIDDLE * levels.size:
        raise NotAMask(
            f'not a mask: {between} pixels ({between / levels.size:.2%}) are '
            f'neither 0 nor 255, {middle} of them grey or coloured; a mask is black '
            'and white (255 = known, 0 = hole)'
        )
    return levels >= 128, between


def read(path: str | os.PathLike, invert: bool = False) -> tuple[np.ndarray, int]:
    """Reads a mask, 255 = known and 0 = hole, or the opposite with `invert`.

    Returns:
        bool[H, W], True = known, and the number of pixels neither 0 nor 255.

    Raises:
        images.UnreadableImage: not a readable image.
        NotAMask: see `known_of`.
    """
    levels = drawn_masks.read(path, invert).levels
    try:
        # Colour shows as levels in between.
        return known_of(levels)
    except NotAMask as error:
        raise NotAMask(f'{storage.shown(path)}: {error}') from error


def files_of(folder: str | os.PathLike, stems: Sequence[str], what: str
             ) -> dict[str, pathlib.Path]:
    """The pictures of a folder that belong to some images.

    Args:
      folder: searched with the folders in it.
      stems: of the images.
      what: 'mask' or 'prediction', for messages.

    Returns:
      {stem: path}.

    Raises:
      ValueError: some are missing; both sides are listed.
    """
    found = image_files.by_stem(folder)
    missing = [s for s in stems if s not in found]
    if missing:
        unused = sorted(found.keys() - set(stems))
        raise ValueError(
            f'{storage.shown(folder)}: no {what} for {len(missing)} of '
            f'{len(stems)} images: {storage.listed(missing)}; without an image: '
            f'{storage.listed(unused) or "none"}. A {what} has the name of its image, '
            'extension aside.')
    return {s: found[s] for s in stems}


def needed(images: str | os.PathLike, folder: str | os.PathLike, stems: Sequence[str]
           ) -> list[str]:
    """Stems without those of unreadable originals that a folder has no picture for.

    No tool paints such an original, or stores its mask.

    Args:
      images: folder of the originals.
      folder: of masks or predictions.
      stems: of the originals.
    """
    originals, there = image_files.by_stem(images), image_files.by_stem(folder)
    missing = sum(s not in there for s in stems)
    if missing > max(sources.MAX_UNREADABLE * len(originals), 1):
        return list(stems)   # refused anyway: nobody waits until all are decoded

    def readable(stem):
        try:
            image_files.decode(originals[stem])
        except image_files.UnreadableImage:
            return False
        return True

    return [s for s in stems if s in there or readable(s)]


def match(images: str | os.PathLike, masks: str | os.PathLike
          ) -> tuple[list[tuple[str, pathlib.Path, pathlib.Path]], list[pathlib.Path]]:
    """Which mask belongs to which image.

    A mask has the path of its image below its folder, extensions aside, or that with
    `_mask` or `_mask` and a number at its end; both may lie in one folder then. Two
    single files belong together whatever their names are, and a single mask belongs to
    every image of a folder.

    Args:
      images: path of an image or a folder.
      masks: path of a mask or a folder.

    Returns:
      [(stem, image path, mask path)], sorted by stem, and the masks of a folder that have
      no image in the other.

    Raises:
      ValueError: no such files, or images without a mask; each line begins with
        'images=' or 'masks='.
    """
    found, errors = {}, []
    for name, path in (('images', images), ('masks', masks)):
        path = pathlib.Path(path)
        try:
            found[name] = ({image_files.stem_of(path.name): path} if path.is_file()
                           else image_files.by_stem(path))
        except ValueError as error:
            errors += [f'{name}={line}' for line in str(error).splitlines()]
    if errors:
        raise ValueError('\n'.join(errors))
    pictures, known = found['images'], found['masks']
    single = pathlib.Path(images).is_file()
    if pathlib.Path(masks).is_file():
        known = dict.fromkeys(pictures, *known.values())
    else:
        known = _by_image(known, pictures)
    if not single:
        # Masks beside their images are no images.
        beside = {_place_of(path) for path in known.values()} & {
            _place_of(path) for stem, path in pictures.items() if _SUFFIX.search(stem)}
        pictures = {stem: path for stem, path in pictures.items()
                    if _place_of(path) not in beside}
        known = {stem: path for stem, path in known.items()
                 if stem in pictures or _place_of(path) not in beside}
    missing = [pictures[stem] for stem in sorted(pictures.keys() - known.keys())]
    if missing:
        raise ValueError(
            f'masks={storage.shown(masks)} has no mask for {storage.listed(missing)} (a mask '
            'has the name of its image, extension aside; name a single file to use it '
            'for the whole folder)')
    unused = [known[stem] for stem in sorted(known.keys() - pictures.keys())]
    pairs = [(stem, pictures[stem], known[stem]) for stem in sorted(pictures)]
    return pairs, [] if single else unused


# Not Path.resolve(): before Python 3.13 it raises RuntimeError for a link to itself, which
# is to be named as a picture that does not open.
_place_of = os.path.realpath


def _by_image(masks, pictures):
    """{stem: mask}, with `a_mask` under the name `a` where that is an image's."""
    found = dict(masks)
    for stem, path in masks.items():
        base = _SUFFIX.sub('', stem)
        if base == stem or base not in pictures:
            continue
        # In a folder of both, the image itself has the plain name.
        if base not in masks or _place_of(masks[base]) == _place_of(pictures[base]):
            found[base] = path
            del found[stem]
    return found


def check_sizes(files: Mapping[str, pathlib.Path], resolution: int, what: str) -> None:
    """Raises ValueError unless all pictures are resolution x resolution.

    Reads headers only; one that has none is an `images.UnreadableImage`.
    """
    wrong = []
    for path in files.values():
        size = image_files.stored_size(path)
        if size != (resolution, resolution):
            wrong.append(f'{path} ({size[0]} x {size[1]})')
    if wrong:
        raise ValueError(
            f'{len(wrong)} of {len(files)} {what}s are not {resolution} x {resolution} '
            f'pixels: {storage.listed(wrong)}. Originals are squashed to the resolution that '
            f'is evaluated, so {what}s must have it; --resolution names another.')


def read_masks(files: Mapping[str, pathlib.Path], stems: Sequence[str], resolution: int,
               invert: bool = False) -> np.ndarray:
    """Masks of some images.

    Args:
      files: {stem: path}, white = known.
      stems: of images, and others: padding '', unreadable originals, see `needed`.
      resolution: R.
      invert: white = hole instead.

    Returns:
      u8[B, R, R, 1], 1 = known, 0 = hole; all known where there is no file.

    Raises:
      ValueError: unreadable, or not black and white.
    """
    masks = np.ones((len(stems), resolution, resolution, 1), np.uint8)
    for i, s in enumerate(stems):
        if s in files:
            masks[i, :, :, 0] = read(files[s], invert)[0]
    return masks
