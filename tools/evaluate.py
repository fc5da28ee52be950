"""Evaluates a checkpoint on held-out images with fixed free-form masks.

    python tools/evaluate.py --checkpoint=runs/quickstart --out=runs/quickstart/evaluation
    python tools/evaluate.py --checkpoint=runs/quickstart --images=PHOTOS --out=photos

Without --images it takes the evaluation images of the checkpoint's own config.
Writes OUT.json (every image), OUT.md (the table that it prints) and OUT.png (samples:
input, mask, raw output, composite, original).  Masks are one per image name and seed,
1 (white) = known.
"""

import contextlib
import json
import os
import sys

from absl import app
from absl import flags

from migan_jax import data
from migan_jax import evaluate
from migan_jax import state as state_lib
from migan_jax import train

ROWS = {
    'hole_psnr': 'hole PSNR, dB: the model',
    'mean_fill_hole_psnr': 'hole PSNR, dB: mean known colour',
    'psnr': 'PSNR of the whole picture, dB',
    'ssim': 'SSIM of the whole picture',
    'hole_l1': 'L1 in holes, range [-1, 1]',
    'hole_share': 'share of hole pixels',
    'images': 'images',
}


def table(summary):
    """Markdown table of `evaluate.summarize`'s figures."""
    lines = ['| figure (mean over images) | value |', '|---|---|']
    lines += [f'| {title} | {summary[name]:.4g} |' for name, title in ROWS.items()]
    return '\n'.join(lines) + '\n'


def run(checkpoint, images, out, seed=None, limit=None):
    """Evaluates and writes OUT.json, OUT.md and OUT.png.

    Args:
      checkpoint: a checkpoint directory.
      images: a folder, or '' for the evaluation images of the checkpoint's config.
      out: path without suffix.
      seed: of the masks; the config's by default.
      limit: only the first images.

    Returns:
      {figure: mean}.

    Raises:
      ValueError: no such checkpoint, no images, or none readable.
    """
    config, generator, variables = state_lib.load_deployed(checkpoint)
    train.check_batch(config.eval.batch_size, 'eval.batch_size of the checkpoint')
    config.eval.limit = limit or config.eval.limit
    seed = config.eval.seed if seed is None else seed
    if images:
        source = data.open_source('folder', path=images, max_pixels=config.data.max_pixels)
    else:
        _, source = train.open_sources(config.data)
    evaluation = evaluate.make_evaluation(
        generator, seed=seed, hole_range=tuple(config.mask.hole_range),
        brush_width=tuple(config.mask.brush_width))
    params, noise = (state_lib.replicate(variables[k]) for k in ('params', 'noise'))
    figures = list(evaluate.per_image(
        evaluation, params, noise, train.eval_batches(source, config)))
    if not figures:
        raise ValueError(f'none of the images in {images or "the config"} is readable.')
    summary = dict(evaluate.summarize(figures))
    with contextlib.closing(train.eval_batches(source, config)) as batches:
        grid = evaluate.sample_grid(
            evaluation, params, noise, next(batches), config.eval.grid_rows)

    os.makedirs(os.path.dirname(os.path.abspath(out)), exist_ok=True)
    report = {'checkpoint': checkpoint, 'mask_seed': seed, 'summary': summary,
              'images': dict(figures)}
    state_lib.write_atomically(f'{out}.json', json.dumps(report, indent=1).encode())
    state_lib.write_atomically(f'{out}.md', table(summary).encode())
    train.write_png(grid, f'{out}.png')
    return summary


def main(argv):
    if len(argv) > 1:
        sys.exit(f'error: unexpected argument {argv[1]}; all input is given by flags')
    args = flags.FLAGS
    state_lib.quiet_logs()
    try:
        summary = run(args.checkpoint, args.images, args.out, args.seed, args.limit)
    except (ValueError, OSError) as error:
        sys.exit(f'error: {error}')
    gain = summary['hole_psnr'] - summary['mean_fill_hole_psnr']
    print(table(summary))
    print(f'The model is {gain:+.2f} dB against filling with the mean known colour.')
    print(f'Samples: {args.out}.png   every image: {args.out}.json')


if __name__ == '__main__':
    # Not at import: tests import this file, and tools share flag names.
    flags.DEFINE_string('checkpoint', None, 'Workdir of a training, or from_torch output.')
    flags.DEFINE_string('images', '', 'Folder; default: the config\'s evaluation images.')
    flags.DEFINE_string('out', None, 'Path of the results, without suffix.')
    flags.DEFINE_integer('seed', None, 'Of the masks; default: the config\'s.')
    flags.DEFINE_integer('limit', None, 'Only the first so many images.')
    flags.mark_flags_as_required(['checkpoint', 'out'])
    app.run(main)
