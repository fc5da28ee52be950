"""One photograph and its mask, from their files to the file that is written."""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import os

import numpy as np

from migan_jax.data import colour
from migan_jax.data import drawn_masks
from migan_jax.data import images
from migan_jax.data import mask_files
from migan_jax.data import photograph_files
from migan_jax.data import photographs
from migan_jax import inpaint
from migan_jax.photo import paint
from migan_jax.storage import shown

MODES = (*inpaint.MODES, 'photo')


@dataclasses.dataclass(frozen=True)
class Options:
    """What can be chosen for a batch of photographs.

    Attributes:
      mode: one of `MODES`; '' is 'photo' for pictures larger than the network and
        'resize' for all others.
      invert_mask: masks have white = hole.
      soft: levels of masks in between are soft edges ('photo' only).
      fit_masks: masks of other sizes are scaled to their pictures.
      stored_masks: masks were drawn on pictures as they are stored, without their EXIF
        orientation.
      grow: pixels by which holes grow.
      feather: see `paint.Settings`.
      grain: whether the grain of the surroundings is matched ('photo' only).
      format: see `photograph_files.plan`.
      quality: see `photograph_files.plan`.
      max_pixels: larger pictures are refused.
    """
    mode: str = ''
    invert_mask: bool = False
    soft: bool = False
    fit_masks: bool = False
    stored_masks: bool = False
    grow: float = 0.
    feather: float = 2.
    grain: bool = True
    format: str = 'same'
    quality: int | None = None
    max_pixels: int = images.MAX_PIXELS

    def __post_init__(self) -> None:
        if self.mode not in ('', *MODES):
            raise ValueError(f'mode: expected one of {", ".join(MODES)}, got '
                             f'{self.mode!r}')
        if self.soft and self.mode not in ('', 'photo'):
            raise ValueError(f'soft masks need mode=photo, not {self.mode}')
        if self.grow < 0 or self.feather < 0:
            raise ValueError('grow and feather: expected 0 pixels or more')


@dataclasses.dataclass(frozen=True)
class Opened:
    """A photograph and its mask, checked.

    Attributes:
      photograph: as read.
      levels: u8[H, W], 255 = known, 0 = hole; levels in between with `Options.soft`.
      between: pixels of the mask that are neither and were decided.
      how: how it will be written.
      notes: what was understood and what will be lost, in sentences.
    """
    photograph: photographs.Photograph
    levels: np.ndarray
    between: int
    how: photograph_files.Plan
    notes: tuple[str, ...]


def open_pair(image: str | os.PathLike, mask: str | os.PathLike, options: Options) -> Opened:
    """Reads and checks a photograph and its mask.

    Raises:
      ValueError: unreadable, not a mask, sizes that do not fit, or a format that can't
        hold the picture; one line for each of the two files.
    """
    errors, read = [], []
    def photograph_of(path):
        photograph = photographs.read(path, max_pixels=options.max_pixels)
        colour.check(photograph)
        return photograph

    for path, reader in (
            (image, photograph_of),
            (mask, lambda path: drawn_masks.read(path, options.invert_mask))):
        try:
            read.append(reader(path))
        except ValueError as error:
            errors.append(str(error))
    if errors:
        raise ValueError('\n'.join(errors))
    photograph, drawn = read
    how = photograph_files.plan(photograph, options.format, options.quality)
    notes = [*how.notes] + ([f'{drawn.note}'] if drawn.note else [])
    levels, between = drawn.levels, 0
    if not options.soft:
        try:
            known, between = mask_files.known_of(levels)
        except mask_files.NotAMask as error:
            raise mask_files.NotAMask(f'{shown(mask)}: {error}; --soft keeps levels in '
                                      'between as soft edges') from error
        levels = np.where(known, 255, 0).astype(np.uint8)
    levels, turned, guessed = drawn_masks.upright(
        drawn._replace(levels=levels), photograph, options.stored_masks)
    if turned:
        notes.append(turned + guessed * ('; pass --stored_masks if it was drawn on the '
                                         'picture as it is stored'))
    if levels.shape != photograph.size:
        levels = _fitted(photograph, levels, image, mask, options)
        notes.append('the mask was scaled to the size of its image')
    if options.grow:
        levels = drawn_masks.grown(levels, options.grow)
    return Opened(photograph, levels, between, how, tuple(notes))


def _fitted(photograph, levels, image, mask, options):
    (height, width), (mask_height, mask_width) = photograph.size, levels.shape
    sizes = (f'{shown(mask)}: the mask has {mask_width} x {mask_height} pixels, its image '
             f'{shown(image)} has {width} x {height}')
    try:
        scaled = drawn_masks.fitted(levels, photograph.size)
    except ValueError as error:
        raise ValueError(f'{sizes}; masks must have the size of the image, and this one has '
                         'not its proportions either: draw it on the image') from error
    if not options.fit_masks:
        raise ValueError(f'{sizes}; masks must have the size of the image, or pass '
                         '--fit_masks to scale them')
    return scaled


def painted(generate: inpaint.Generate, resolution: int, opened: Opened, options: Options,
            seed: int = 0) -> photographs.Photograph:
    """Paints the holes of a photograph.

    Args:
      generate: see `inpaint.inpaint_many`.
      resolution: R.
      opened: see `open_pair`.
      options: the same.
      seed: of grain and dither.

    Returns:
      The photograph with what was painted; all else keeps its samples.
    """
    (result,) = painted_many(
        generate, resolution, [(opened.photograph, opened.levels)], options, seed)
    return result


def painted_many(generate: Callable, resolution: int,
                 pairs: Sequence[tuple[photographs.Photograph, np.ndarray]],
                 options: Options, seed: int = 0) -> Iterator[photographs.Photograph]:
    """Paints the holes of several photographs, those of one run each in batches.

    Args:
      generate: see `inpaint.inpaint_many`.
      resolution: R.
      pairs: photographs, and u8[H, W] of the size of each: 255 = known, 0 = hole, levels
        in between with `Options.soft`.
      options: `mode`, `soft`, `feather` and `grain` count.
      seed: of grain and dither.

    Yields:
      The photographs, in order, with what was painted; all else keeps its samples.
    """
    modes = [_mode(mask, resolution, options) for _, mask in pairs]
    together = {}
    for mode, prepare in inpaint.MODES.items():
        jobs = [(colour.to_srgb(photograph), mask)
                for (photograph, mask), own in zip(pairs, modes) if own == mode]
        together[mode] = zip([seen for seen, _ in jobs], inpaint.inpaint_many(
            generate, jobs, resolution, prepare))
    for (photograph, mask), mode in zip(pairs, modes):
        if not mode:
            yield photograph
        elif mode == 'photo':
            yield _by_holes(generate, resolution, photograph, mask, options, seed)
        else:
            seen, result = next(together[mode])
            changed = (result != seen).any(-1)
            if mode == 'resize':
                changed |= mask != 255
            yield photograph_files.with_painting(photograph, result, changed, seed=seed)


def _mode(mask, resolution, options):
    """One of `MODES`; '' where nothing is to be painted."""
    if (mask == 255).all():
        return ''
    large = options.soft or max(mask.shape) > resolution
    return options.mode or ('photo' if large else 'resize')


def _by_holes(generate, resolution, photograph, mask, options, seed):
    samples = photograph.samples.copy()
    settings = paint.Settings(options.feather, options.grain, seed=seed)
    seen = colour.to_srgb(photograph)
    for fill in paint.fills(generate, seen, mask, resolution, settings, options.soft):
        photograph_files.replace(photograph, samples, fill.levels, fill.weight > 0,
                                 (fill.box.top, fill.box.left), seed)
    return dataclasses.replace(photograph, samples=samples)


def squashed(generate: inpaint.Generate, resolution: int, opened: Opened
             ) -> tuple[np.ndarray, np.ndarray]:
    """The whole picture at the model's size, as evaluations and sheets have it.

    Args:
      generate: see `inpaint.inpaint_many`.
      resolution: R.
      opened: see `open_pair`.

    Returns:
      u8[R, R, 3], squashed and its holes painted; u8[R, R], 255 = known, 0 = hole.
    """
    image = images.squash(colour.to_srgb(opened.photograph), resolution)
    known = np.where(opened.levels == 255, 255, 0).astype(np.uint8)[..., None]
    mask = inpaint.resize_nearest(known, resolution, resolution)[..., 0]
    (result,) = inpaint.inpaint_many(generate, [(image, mask)], resolution)
    return result, mask
