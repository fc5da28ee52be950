"""Inpaints a picture or a folder of pictures of any size.

    python tools/inpaint.py --checkpoint=workdir --images=photos --masks=masks --out=out

Images and masks are files or folders (searched recursively for jpg, png, webp, tif, bmp,
gif, avif and heic; hidden files and previews left out). A mask belongs to the image with
the same path below its folder, extensions aside, also as NAME_mask beside or apart from
it; one mask file serves a whole folder.

Masks: white (255) = known, black (0) = hole; --invert_mask for the opposite. Strokes on a
transparent layer are the hole, and so is what is cut out of a photograph. EXIF rotation
is applied to images and masks.

Each result has the format, depth, colour profile, EXIF and resolution of its image, unless
--format asks for another; what could not be kept is said.

--mode=photo, the default for pictures larger than the model, paints each hole at its own
scale. --mode=resize squashes the picture to the model's resolution, as the published demo
does. --mode=pipeline paints one square crop around all holes. docs/photographs.md has
more.

Everything is read and checked before the model runs. Results that --out holds already
are replaced; --out among the images or masks needs --overwrite. Errors go to stderr,
one line each, and the exit code is 1; --keep_going does what can be done.
"""

from collections.abc import Callable, Mapping, Sequence
import os
import pathlib
import sys
from typing import Any, NamedTuple, TYPE_CHECKING

from absl import flags
import numpy as np

from migan_jax import cli
from migan_jax.data import images as image_files
from migan_jax.data import mask_files
from migan_jax.data import photograph_files
from migan_jax import extras
from migan_jax.meter import Meter
from migan_jax.storage import listed
from migan_jax.storage import shown
# migan_jax.photo is imported where it is used: it brings JAX, which --help can do without.

if TYPE_CHECKING:
    from migan_jax.photo import files

class Job(NamedTuple):
    """Paths of an image, its mask and the result.

    `opened` is what was read to check a pair that comes alone; several might not fit into
    memory, and are read again.
    """
    image: pathlib.Path
    mask: pathlib.Path
    target: pathlib.Path
    opened: 'files.Opened | None'


class InputError(ValueError):
    """Input that cannot be used: one line for each problem."""


class SomeFailed(ValueError):
    """Some pictures of a batch could not be done; the others are."""


def run(generate: Callable, resolution: int, images: os.PathLike | str,
        masks: os.PathLike | str, out: os.PathLike | str, overwrite: bool = False,
        keep_going: bool = False, save_predictions: os.PathLike | str = '',
        save_masks: os.PathLike | str = '', **options: Any) -> list[pathlib.Path]:
    """Checks all input, then inpaints every image into `out`.

    Args:
        generate: f32[B, R, R, 4] -> f32[B, R, R, 3], see `inpaint.inpaint_many`.
        resolution: R.
        images: path of an image or a folder.
        masks: path of a mask or a folder; 255 = known, 0 = hole.
        out: folder for the results, made if missing.
        overwrite: whether results may lie among images and masks and replace them.
        keep_going: do the good ones of a batch, then raise.
        save_predictions: folder for what the model paints on the whole picture squashed
            to R x R, composited, as PNG named like the image; '' is none.
        save_masks: folder for the masks of these, likewise.
        options: of `files.Options`.

    Returns:
        The paths written, in order.

    Raises:
        InputError: with everything that is wrong with the input; nothing was written.
        SomeFailed: with `keep_going`, what could not be done.
    """
    from migan_jax.photo import files

    try:
        options = files.Options(**options)
    except ValueError as error:
        raise InputError(str(error)) from error
    squashed = {'save_predictions': save_predictions, 'save_masks': save_masks}
    squashed = {flag: folder for flag, folder in squashed.items() if folder}
    jobs, errors = check(images, masks, out, options, overwrite, keep_going, squashed)
    written = []
    for image, mask, target, opened in Meter.over(jobs, 'pictures'):
        try:
            opened = opened or files.open_pair(image, mask, options)
            result = files.painted(generate, resolution, opened, options)
            target.parent.mkdir(parents=True, exist_ok=True)
            photograph_files.write(result, target, opened.how, options.quality)
            if squashed:
                pictures = files.squashed(generate, resolution, opened)
                for flag, folder in squashed.items():
                    path = squashed_path(folder, target, out)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    image_files.write_png(pictures[flag == 'save_masks'], path)
        except (ValueError, extras.MissingExtra) as error:
            if not keep_going:
                raise
            errors.append(str(error))
            continue
        written.append(target)
    if errors:
        raise SomeFailed('\n'.join(
            [f'{len(written)} pictures were written, {len(errors)} were not:', *errors]))
    return written


def squashed_path(folder: os.PathLike | str, target: pathlib.Path,
                  out: os.PathLike | str) -> pathlib.Path:
    """Where the R x R picture goes that belongs to a result."""
    return (pathlib.Path(folder) / target.relative_to(out)).with_suffix('.png')


def check(images: os.PathLike | str, masks: os.PathLike | str, out: os.PathLike | str,
          options: 'files.Options', overwrite: bool = False, keep_going: bool = False,
          squashed: Mapping[str, os.PathLike | str] | tuple[()] = ()
          ) -> tuple[list[Job], list[str]]:
    """Finds what would go wrong, and warns of what looks wrong.

    Reads every file in full, because only that finds a truncated one.

    Returns:
        Jobs, sorted, and with `keep_going` what is wrong with the others.

    Raises:
        InputError: see `run`.
    """
    from migan_jax.photo import files

    images, masks, out = pathlib.Path(images), pathlib.Path(masks), pathlib.Path(out)
    try:
        pairs, unused = mask_files.match(images, masks)
    except ValueError as error:
        raise InputError('\n'.join(
            f'--{line}' for line in str(error).splitlines())) from error
    if unused:
        warn(f'no image in {shown(images)} for the mask {listed(unused)}')
    if images.is_dir():
        others = image_files.other_kinds(image_files.walk(images))
        if others:
            warn(f'{shown(images)}: files that are no images are left out: {others}')
    jobs, errors, notes, all_known, all_hole = [], [], {}, [], []
    holes = pixels = 0
    for stem, image, mask in Meter.over(pairs, 'pictures checked'):
        try:
            opened = files.open_pair(image, mask, options)
        except ValueError as error:
            errors += str(error).splitlines()
            continue
        jobs.append(Job(image, mask, out / f'{stem}{opened.how.suffix}',
                        opened if len(pairs) == 1 else None))
        for note in opened.notes:
            notes.setdefault(note, []).append(image.name)
        if opened.between:
            warn(f'{shown(mask)}: {opened.between} pixels '
                 f'({opened.between / opened.levels.size:.2%}) are neither 0 nor 255; '
                 '128 and above is taken as 255 (save masks as PNG)')
        hole = np.count_nonzero(opened.levels != 255)
        if not hole:
            all_known.append(mask)
        elif hole == opened.levels.size:
            all_hole.append(mask)
        holes += hole
        pixels += opened.levels.size
    if errors and keep_going and jobs:
        failed, errors = errors, []
    else:
        failed = []
    for flag, folder in {'out': out, **dict(squashed)}.items():
        if not overwrite:
            targets = [job.target if flag == 'out'
                       else squashed_path(folder, job.target, out) for job in jobs]
            errors += check_apart(images, masks, f'--{flag}={folder}', jobs, targets)
    if out.exists() and not out.is_dir():
        errors.append(f'--out={shown(out)} exists and is not a folder')
    if errors:
        raise InputError('\n'.join(errors))
    for flag, folder in {'out': out, **dict(squashed)}.items():
        try:
            cli.check_folder(folder)
        except ValueError as error:
            raise InputError(f'--{flag}={error}') from error
    for note, names in notes.items():
        warn(f'{note}: {listed(names)}')
    warn_of_polarity(options.invert_mask, all_known, all_hole, holes / max(pixels, 1))
    return jobs, failed


def warn_of_polarity(inverted: bool, all_known: Sequence[pathlib.Path],
                     all_hole: Sequence[pathlib.Path], share: float) -> None:
    """Warns where masks look as if the other polarity was meant."""
    as_read = mask_files.as_read(inverted)
    if all_known:
        warn('nothing to inpaint, the image is copied: the mask is all known '
             f'({as_read}): {listed(all_known)}')
    if all_hole:
        warn('nothing is known, the model paints freely: the mask is all hole '
             f'({as_read}): {listed(all_hole)}')
    for sentence in mask_files.mostly_hole('the masks', share, inverted):
        warn(sentence)


def check_apart(images: pathlib.Path, masks: pathlib.Path, what: str,
                jobs: Sequence[Job], targets: Sequence[pathlib.Path]) -> list[str]:
    """Lines of complaint about results that would lie among the inputs."""
    try:
        cli.check_apart(what, targets, {'images': images, 'masks': masks})
    except ValueError as error:
        return str(error).splitlines()
    # Also inputs that links in those folders lead to.
    inputs = {os.path.realpath(path) for job in jobs for path in (job.image, job.mask)}
    return [f'{shown(what)}: a result would replace the input {shown(target)}'
            for target in targets if os.path.realpath(target) in inputs]


def warn(message: str) -> None:
    print(f'warning: {message}', file=sys.stderr)


def define_flags() -> None:
    flags.DEFINE_string(
        'checkpoint', None,
        'Training workdir, or a folder written by tools/from_torch.py.', required=True)
    flags.DEFINE_string('step', 'best', 'Of a workdir: best, latest or an iteration.')
    flags.DEFINE_string('images', None, 'Image or folder of images.', required=True)
    flags.DEFINE_string(
        'masks', None, 'Mask or folder of masks; white = known, black = hole.',
        required=True)
    flags.DEFINE_string('out', None, 'Folder for the results.', required=True)
    flags.DEFINE_bool('invert_mask', False, 'The masks have white = hole instead.')
    flags.DEFINE_string(
        'mode', None,
        'photo, pipeline or resize, see above; default: photo for pictures larger than '
        'the model, else resize.')
    flags.register_validator('mode', check_mode)
    flags.DEFINE_enum(
        'format', 'same', ('same', *photograph_files.FORMATS),
        'Of the results; same: the image\'s.')
    flags.DEFINE_integer('quality', None, 'Of JPEG and WebP; by default that of the '
                         'image, and lossless WebP.', 1, 100)
    flags.DEFINE_bool('soft', False, 'Grey in masks is a soft edge (mode photo).')
    flags.DEFINE_bool('fit_masks', False, 'Scale masks of another size.')
    flags.DEFINE_bool('stored_masks', False,
                      'Masks were drawn on images without their EXIF rotation.')
    flags.DEFINE_float('grow', 0, 'Pixels by which holes grow.', 0)
    flags.DEFINE_float('feather', 2, 'Pixels outside holes over which fills fade (mode '
                       'photo).', 0)
    flags.DEFINE_enum('grain', 'auto', ('auto', 'off'),
                      'Whether the grain of the surroundings is matched (mode photo).')
    flags.DEFINE_integer('max_pixels', image_files.MAX_PIXELS,
                         'Larger images are refused.', 1)
    flags.DEFINE_string('save_predictions', '', 'Folder for squashed pictures, painted, '
                        'R x R.')
    flags.DEFINE_string('save_masks', '', 'Folder for their masks, R x R.')
    flags.DEFINE_bool('keep_going', False,
                      'Do the good ones of a batch; exit 1 with a list of the others.')
    flags.DEFINE_bool('overwrite', False, 'Results may replace images and masks.')


def check_mode(mode: str | None) -> bool:
    from migan_jax.photo import files

    if mode in (None, *files.MODES):
        return True
    raise flags.ValidationError(f'expected one of {", ".join(files.MODES)}')


def main(argv: Sequence[str]) -> None:
    # Imported here: it brings in the models, which `run` takes as a function.
    from migan_jax import checkpoint as checkpoint_lib
    from migan_jax.weights import fetching

    del argv
    args = flags.FLAGS
    cli.keep_compiled(fetching.cache_folder())
    config, generate, step = checkpoint_lib.load_generator_step(
        args.checkpoint, step=args.step)
    written = run(
        generate, config.model.resolution, args.images, args.masks, args.out,
        overwrite=args.overwrite, keep_going=args.keep_going,
        save_predictions=args.save_predictions, save_masks=args.save_masks,
        mode=args.mode or '', invert_mask=args.invert_mask, soft=args.soft,
        fit_masks=args.fit_masks,
        stored_masks=args.stored_masks, grow=args.grow, feather=args.feather,
        grain=args.grain == 'auto', format=args.format, quality=args.quality,
        max_pixels=args.max_pixels)
    print(f'wrote {len(written)} picture{"s" * (len(written) != 1)} to {args.out} '
          f'(model: {checkpoint_lib.said(args.checkpoint, config, step)})')


if __name__ == '__main__':
    # Not at import: other tools and tests may define flags of the same names.
    define_flags()
    cli.run(main)
