"""Writes one free-form mask for every image of a folder.

    python tools/make_masks.py --images=DIR --resolution=256 --hole_range=0,1 --out=DIR

A mask depends on its image's name (its path in the folder without the suffix) and
the seed only: adding or removing other images changes nothing.  Images are not
opened.  Masks are 8-bit grayscale PNG, white (255) = known, black (0) = hole, and R x R:
for evaluate.py, make_grid.py and make_study.py; inpaint.py wants the picture's size.
Masks that OUT holds already are replaced; OUT in the folder of images needs --overwrite.
"""

from collections.abc import Sequence
import functools
import json
import os
import pathlib

from absl import flags
import jax
import numpy as np

from migan_jax import cli
from migan_jax.data import images as image_files
from migan_jax.data import masks
from migan_jax.meter import Meter


def write_mask(path: os.PathLike | str, mask: np.typing.ArrayLike) -> None:
    """Writes a mask as PNG, whole or not at all.

    Args:
      path: the file to write; missing folders are made.
      mask: [R, R, 1] array, 1 = known (written as 255), 0 = hole.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    image_files.write_png(
        np.where(np.asarray(mask)[:, :, 0] > 0, 255, 0).astype(np.uint8), path)


def make_masks(images: os.PathLike | str, out: os.PathLike | str, resolution: int,
               hole_range: tuple[float, float], *, seed: int = 0,
               brush_width: tuple[int, int] | None = None,
               overwrite: bool = False) -> tuple[int, float]:
    """Writes OUT/<stem>.png for every image of a folder.

    Args:
      images: folder of images, searched with the folders in it.
      out: folder for the masks.
      resolution, hole_range, brush_width: as for `masks.free_form`; strokes by default as
        wide as `masks.stroke_widths` says.
      seed: int; another seed gives other masks.
      overwrite: whether `out` may be or lie in `images`.

    Returns:
      (number of masks, mean hole share).

    Raises:
      ValueError: as for `images.by_stem` and `masks.free_form`; a mask would be
        written into the folder of images, without `overwrite`; `out` can not be
        written to.
    """
    stems = image_files.by_stem(images)
    files = {stem: pathlib.Path(out) / f'{stem}.png' for stem in stems}
    cli.check_apart(
        f'--out={out}', files.values(), {'images': images}, overwrite)
    draw = jax.jit(
        functools.partial(
            masks.free_form,
            resolution=resolution,
            hole_range=hole_range,
            brush_width=brush_width or masks.stroke_widths(resolution),
        )
    )
    # Finds bad arguments before anything is written.
    jax.eval_shape(draw, masks.name_key(seed, ''))
    cli.check_folder(out)
    shares = []
    for stem, file in Meter.over(files.items(), 'masks'):
        mask = np.asarray(draw(masks.name_key(seed, stem)))
        write_mask(file, mask)
        shares.append(1.0 - float(mask.mean()))
    return len(shares), float(np.mean(shares))


def pair(text: str, kind: type[int] | type[float]) -> tuple[int, int] | tuple[float, float]:
    """Two comma-separated numbers of a flag.

    Args:
      text: such as "0,1".
      kind: int or float.

    Returns:
      tuple of two numbers.

    Raises:
      ValueError: not two such numbers.
    """
    try:
        first, second = (kind(part) for part in text.split(','))
    except ValueError as error:
        raise ValueError(
            f'{text!r}: expected two {kind.__name__} numbers and a comma, such as 0,1'
        ) from error
    return first, second


def main(argv: Sequence[str]) -> None:
    del argv
    values = flags.FLAGS
    count, share = make_masks(
        values.images,
        values.out,
        values.resolution,
        pair(values.hole_range, float),
        seed=values.seed,
        brush_width=pair(values.brush_width, int) if values.brush_width else None,
        overwrite=values.overwrite,
    )
    if values.json:
        print(json.dumps({'masks': count, 'mean_hole_share': share}))
    else:
        print(f'{count} masks in {values.out}, mean hole share {share:.4f}')


def define_flags() -> None:
    flags.DEFINE_string('images', None, 'Folder of images.', required=True)
    flags.DEFINE_string('out', None, 'Folder for the masks.', required=True)
    flags.DEFINE_integer('resolution', None, 'Side of a mask, px.', required=True)
    flags.DEFINE_string('hole_range', '0,1', 'Bounds of the share of hole pixels.')
    flags.DEFINE_string('brush_width', '', 'Narrowest and widest stroke, px; default: '
                        '12,48, scaled below 256 x 256.')
    flags.DEFINE_integer('seed', 0, 'Another seed gives other masks.')
    flags.DEFINE_bool('overwrite', False, 'Masks may lie among the images.')
    flags.DEFINE_bool('json', False, 'Print number and mean hole share as JSON.')


# Not at import: the tools share flag names, and tests import several of them.
if __name__ == '__main__':
    define_flags()
    cli.run(main)
