"""Draws a sheet that compares methods side by side: original, masked, each method.

    python tools/make_grid.py --images=photos --masks=masks --out=sheet.pdf \\
        --methods="Co-Mod-GAN=painted/comodgan;MI-GAN=painted/migan"

One row per image, labels above the columns.  Results are matched by name and must have
the size of their mask, R x R, white = known; originals are squashed to it, and known
pixels always come from them.  OUT ends in .png or .pdf; among the images, masks or
results it needs --overwrite.
"""

from collections.abc import Collection, Mapping, Sequence
import io
import os
import sys

from absl import flags
import numpy as np
from PIL import Image
from PIL import ImageDraw
from PIL import ImageFont

from migan_jax import cli
from migan_jax.data import images as image_files
from migan_jax.data import mask_files
from migan_jax.meter import Meter
from migan_jax.model import io as model_io
from migan_jax import storage

# Spaces of a sheet, in shares of a picture's side.
_GAP, _HEAD = 1 / 32, 1 / 8
# Where nothing is known.
_HOLE_LEVEL = 128


def parse_methods(text: str) -> dict[str, str]:
    """'A=folder;B=other' -> {'A': 'folder', 'B': 'other'}, in this order.

    Raises:
      ValueError: not of this form, or a name twice.
    """
    methods = {}
    for item in (part.strip() for part in text.split(';')):
        name, equals, folder = item.partition('=')
        if not (name.strip() and equals and folder.strip()) or name.strip() in methods:
            raise ValueError(f'--methods={text!r}: expected NAME=FOLDER with a '
                             'semicolon between, every name once, such as "A=one;B=two"')
        methods[name.strip()] = folder.strip()
    return methods


def load(images: os.PathLike | str, masks: os.PathLike | str,
         methods: Mapping[str, os.PathLike | str], stems: Sequence[str] = (),
         rows: int | None = None) -> dict[str, dict[str, np.ndarray]]:
    """Reads what is compared.

    Args:
      images: folder of originals.
      masks: folder of masks, white = known, all of one square size R.
      methods: {name: folder of R x R pictures}.
      stems: which images; the first `rows` by name if empty.
      rows: at most so many.

    Returns:
      {stem: {'original', 'masked', method name...: u8[R, R, 3]}}; what methods painted
      is composited with the original.

    Raises:
      ValueError: something is missing, of another size, or unreadable.
    """
    known = image_files.by_stem(images)
    stems = [image_files.composed(s) for s in stems]
    if unknown := [s for s in stems if s not in known]:
        raise ValueError(
            f'{storage.shown(images)}: no image {storage.listed(unknown)}')
    stems = (stems or painted_by_any(known, methods))[:rows]
    files = {'mask': mask_files.files_of(masks, stems, 'mask')}
    resolution = image_files.stored_size(files['mask'][stems[0]])[0]
    mask_files.check_sizes(files['mask'], resolution, 'mask')
    for name, folder in methods.items():
        files[name] = mask_files.files_of(folder, stems, 'prediction')
        mask_files.check_sizes(files[name], resolution, 'prediction')
    loaded = {}
    for s in Meter.over(stems, 'images'):
        original = image_files.squash(image_files.decode(known[s]), resolution)
        mask = mask_files.read_masks(files['mask'], [s], resolution)[0]
        gray = np.full_like(original, _HOLE_LEVEL)
        loaded[s] = {'original': original,
                     'masked': model_io.composite(gray, original, mask)}
        for name in methods:
            painted = image_files.decode(files[name][s])
            loaded[s][name] = model_io.composite(painted, original, mask)
    return loaded


def painted_by_any(known: Collection[str],
                   methods: Mapping[str, os.PathLike | str]) -> list[str]:
    """Those of the images that a method has painted; says which are left out.

    Unreadable images are such: no tool paints them.
    """
    painted = {stem for folder in methods.values() for stem in image_files.by_stem(folder)}
    left_out = [stem for stem in known if stem not in painted]
    # Where nothing fits, the complaint about missing files says more.
    if not left_out or len(left_out) == len(known):
        return list(known)
    print('left out, as no method has painted them: '
          f'{storage.listed(left_out)}', file=sys.stderr)
    return [stem for stem in known if stem in painted]


def sheet(rows: Sequence[Mapping[str, np.ndarray]], cell: int | None = None) -> Image.Image:
    """One picture of all rows.

    Args:
      rows: list of {label: u8[R, R, 3]}, equal labels in equal order.
      cell: side of a picture on the sheet; R by default.

    Returns:
      Pillow image, white where nothing is.
    """
    labels = list(rows[0])
    side = cell or rows[0][labels[0]].shape[0]
    gap, head = max(2, round(side * _GAP)), max(12, round(side * _HEAD))
    width = len(labels) * (side + gap) + gap
    page = Image.new('RGB', (width, head + len(rows) * (side + gap)), 'white')
    draw = ImageDraw.Draw(page)
    for column, label in enumerate(labels):
        x = gap + column * (side + gap)
        size = head * 0.7
        # Long names shrink to their column.
        while size > 6 and draw.textlength(label, _font(size)) > side:
            size -= 1
        draw.text((x + side / 2, head / 2), label, 'black', _font(size), anchor='mm')
        for row, pictures in enumerate(rows):
            pixels = pictures[label]
            if pixels.shape[0] != side:
                pixels = image_files.squash(pixels, side)
            page.paste(Image.fromarray(pixels), (x, head + row * (side + gap)))
    return page


def _font(size):
    return ImageFont.load_default(size)


def write(page: Image.Image, out: os.PathLike | str) -> None:
    """Writes a sheet as PNG or PDF, atomically.

    Raises:
      ValueError: another suffix.
    """
    kind = {'.png': 'PNG', '.pdf': 'PDF'}.get(os.path.splitext(out)[1].lower())
    if kind is None:
        raise ValueError(f'--out={out}: expected a name that ends in .png or .pdf')
    buffer = io.BytesIO()
    page.save(buffer, kind)
    os.makedirs(os.path.dirname(os.path.abspath(out)), exist_ok=True)
    storage.write_atomically(out, buffer.getvalue())


def check_out(files: Sequence[str], args: flags.FlagValues,
              methods: Mapping[str, os.PathLike | str]) -> None:
    """Refuses files among the inputs or in folders that can not be written to.

    Args:
      files: paths that will be written.
      args: parsed flags.
      methods: of `parse_methods`.

    Raises:
      ValueError: see `cli.check_apart` and `cli.check_files`.
    """
    inputs = {'images': args.images, 'masks': args.masks}
    inputs |= {f'methods={name}': folder for name, folder in methods.items()}
    cli.check_apart(f'--out={args.out}', files, inputs, args.overwrite)
    cli.check_files(files)


def main(argv: Sequence[str]) -> None:
    del argv
    args = flags.FLAGS
    methods = parse_methods(args.methods)
    check_out([args.out], args, methods)
    rows = load(args.images, args.masks, methods, args.stems, args.rows)
    write(sheet(list(rows.values()), args.cell), args.out)
    print(f'{len(rows)} rows in {args.out}')


def define_flags() -> None:
    flags.DEFINE_string('images', None, 'Folder of originals.', required=True)
    flags.DEFINE_string('masks', None, 'Folder of masks, white = known.', required=True)
    flags.DEFINE_string('methods', None, '"NAME=FOLDER;NAME=FOLDER".', required=True)
    flags.DEFINE_string('out', None, 'The sheet, .png or .pdf.', required=True)
    flags.DEFINE_list('stems', [], 'Which images, no extension; default: the first.')
    flags.DEFINE_integer('rows', 8, 'At most so many images.', lower_bound=1)
    flags.DEFINE_integer('cell', None, 'Side of a picture on the sheet; default: R.')
    flags.DEFINE_bool('overwrite', False, 'The sheet may lie among the inputs.')


if __name__ == '__main__':
    # Not at import: the tools share flag names, and tests import several of them.
    define_flags()
    cli.run(main)
