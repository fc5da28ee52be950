"""Inpaints a picture or a folder of pictures of any size.

    python tools/inpaint.py --checkpoint=workdir --images=photos --masks=masks --out=out

Images and masks are files or folders (searched recursively for jpg, jpeg, png and
webp, hidden files left out). A mask belongs to the image with the same path below its
folder, extensions aside; two single files belong together whatever their names are.

Masks: white (255) = known, black (0) = hole; --invert_mask for the opposite. EXIF
rotation is applied to images and masks. Each result is a PNG of the size of its
(rotated) image, with the image's relative path.

--mode=resize squashes the picture to the model's resolution, as the published demo
does, and keeps every pixel outside the hole. --mode=pipeline paints a square crop
around the hole, at the picture's own resolution where it can, and softens the edge.

Everything is read and checked before the model runs. Results that --out holds already
are replaced; --out among the images or masks needs --overwrite. Errors go to stderr,
one line each, and the exit code is 1.
"""

import os
import pathlib
import sys

from absl import flags
import numpy as np

from migan_jax import cli
from migan_jax.data import images as image_files
from migan_jax.data import mask_files
from migan_jax.data.mask_files import listed
from migan_jax import inpaint
from migan_jax.storage import shown

MODES = tuple(inpaint.MODES)


class InputError(ValueError):
    """Input that cannot be used: one line for each problem."""


def run(generate, resolution, images, masks, out, invert_mask=False, mode='resize',
        overwrite=False):
    """Checks all input, then inpaints every image into `out`.

    Args:
        generate: f32[1, R, R, 4] -> f32[1, R, R, 3], see `model_io.model_input`.
        resolution: R.
        images: path of an image or a folder.
        masks: path of a mask or a folder; 255 = known, 0 = hole.
        out: folder for the results, made if missing.
        invert_mask: True if the masks have 0 = known, 255 = hole.
        mode: 'resize' or 'pipeline'.
        overwrite: whether results may lie among images and masks and replace them.

    Returns:
        The paths written, in order.

    Raises:
        InputError: with everything that is wrong with the input; nothing was written.
    """
    if mode not in MODES:
        raise InputError(f'mode: expected one of {", ".join(MODES)}, got {mode!r}')
    pipeline = mode == 'pipeline'
    inpaint_picture = inpaint.inpaint_pipeline if pipeline else inpaint.inpaint_resize
    jobs = check(images, masks, out, invert_mask, overwrite)
    for image, mask, target in cli.progress(jobs, 'pictures'):
        picture = image_files.decode(image)
        known, _ = mask_files.read(mask, invert_mask)
        levels = np.where(known, 255, 0).astype(np.uint8)
        target.parent.mkdir(parents=True, exist_ok=True)
        image_files.write_png(
            inpaint_picture(generate, picture, levels, resolution), target)
    return [target for _, _, target in jobs]


def check(images, masks, out, invert_mask, overwrite=False):
    """Finds what would go wrong, and warns of what looks wrong.

    Reads every file in full, because only that finds a truncated one.

    Returns:
        [(image path, mask path, target path)], sorted.

    Raises:
        InputError: see `run`.
    """
    images, masks, out = pathlib.Path(images), pathlib.Path(masks), pathlib.Path(out)
    try:
        pairs, unused = mask_files.match(images, masks)
    except ValueError as error:
        raise InputError('\n'.join(f'--{line}' for line in str(error).splitlines())) from error
    if unused:
        warn(f'no image in {shown(images)} for the mask {listed(unused)}')
    jobs = [(image, mask, out / f'{stem}.png') for stem, image, mask in pairs]
    errors = [] if overwrite else check_apart(images, masks, out, jobs)
    if out.exists() and not out.is_dir():
        errors.append(f'--out={shown(out)} exists and is not a folder')
    warnings, all_known, all_hole = [], [], []
    holes = pixels = 0
    for image, mask, _ in cli.progress(jobs, 'pictures checked'):
        sizes = []
        try:
            sizes.append(image_files.decode(image).shape[:2])
        except image_files.UnreadableImage as error:
            errors.append(str(error))
        try:
            known, between = mask_files.read(mask, invert_mask)
        except (image_files.UnreadableImage, mask_files.NotAMask) as error:
            errors.append(str(error))
            continue
        sizes.append(known.shape)
        if len(set(sizes)) > 1:
            (h, w), (mask_h, mask_w) = sizes
            errors.append(
                f'{shown(mask)}: the mask has {mask_w} x {mask_h} pixels, its image '
                f'{shown(image)} has {w} x {h}; masks must have the size of the image'
            )
        if between:
            warnings.append(
                f'{shown(mask)}: {between} pixels ({between / known.size:.2%}) are '
                'neither 0 nor 255; 128 and above is taken as 255 (save masks as PNG)'
            )
        if known.all():
            all_known.append(mask)
        elif not known.any():
            all_hole.append(mask)
        holes += known.size - np.count_nonzero(known)
        pixels += known.size
    if errors:
        raise InputError('\n'.join(errors))
    try:
        cli.check_folder(out)
    except ValueError as error:
        raise InputError(f'--out={error}') from error

    remedy = 'drop --invert_mask' if invert_mask else 'pass --invert_mask'
    white, black = ('hole', 'known') if invert_mask else ('known', 'hole')
    colours = f'white = {white}, black = {black}'
    if all_known:
        warnings.append(
            'nothing to inpaint, the image is copied: the mask is all known '
            f'({colours}; if it is the other way round, {remedy}): {listed(all_known)}'
        )
    if all_hole:
        warnings.append(
            'nothing is known, the model paints freely: the mask is all hole '
            f'({colours}; if it is the other way round, {remedy}): {listed(all_hole)}'
        )
    if holes > mask_files.SUSPICIOUS_HOLE * pixels:
        warnings.append(
            f'{holes / pixels:.0%} of the masks is hole; {colours}: if it is the other '
            f'way round, {remedy}'
        )
    for warning in warnings:
        warn(warning)
    return jobs


def check_apart(images, masks, out, jobs):
    """Lines of complaint about results that would lie among the inputs."""
    what = f'--out={out}'
    try:
        cli.check_apart(
            what, [target for *_, target in jobs], {'images': images, 'masks': masks})
    except ValueError as error:
        return str(error).splitlines()
    # Also inputs that links in those folders lead to.
    inputs = {os.path.realpath(path) for job in jobs for path in job[:2]}
    return [f'{shown(what)}: a result would replace the input {shown(target)}'
            for _, _, target in jobs if os.path.realpath(target) in inputs]


def warn(message):
    print(f'warning: {message}', file=sys.stderr)


def define_flags():
    flags.DEFINE_string(
        'checkpoint', None,
        'Training workdir (its best checkpoint, else its latest) or a folder written '
        'by tools/from_torch.py.', required=True)
    flags.DEFINE_string('images', None, 'Image or folder of images.', required=True)
    flags.DEFINE_string(
        'masks', None, 'Mask or folder of masks; white = known, black = hole.',
        required=True)
    flags.DEFINE_string('out', None, 'Folder for the results (PNG).', required=True)
    flags.DEFINE_bool('invert_mask', False, 'The masks have white = hole instead.')
    flags.DEFINE_enum(
        'mode', 'resize', MODES,
        'resize: squash the whole picture; pipeline: paint a crop around the hole.')
    flags.DEFINE_bool('overwrite', False, 'Results may replace images and masks.')


def main(argv):
    # Imported here: it brings in the models, which `run` takes as a function.
    from migan_jax import checkpoint as checkpoint_lib
    from migan_jax import cli

    del argv
    args = flags.FLAGS
    cli.quiet_logs()
    config, generate = checkpoint_lib.load_generator(args.checkpoint)
    written = run(
        generate, config.model.resolution, args.images, args.masks, args.out,
        args.invert_mask, args.mode, args.overwrite)
    print(f'wrote {len(written)} picture{"s" * (len(written) != 1)} to {args.out}')


if __name__ == '__main__':
    # Not at import: other tools and tests may define flags of the same names.
    define_flags()
    cli.run(main)
