"""Writes models/demo, the model that comes with a clone, from its training.

    python tools/save_demo.py --checkpoint=runs/demo --evaluation=bsds.json --out=models/demo

Half precision, the best checkpoint so far or that of --step, and a card with the
photographs' authors and licences.  --evaluation may be given again: reports of
tools/evaluate.py, whose mean figures go onto the card as NAME/RANGE/FIGURE.
"""

from collections.abc import Sequence
import json
import pathlib

from absl import flags

import demo_photos
from migan_jax import checkpoint as checkpoint_lib
from migan_jax import cli
from migan_jax.weights import bundles

# What the card says at the end, before the photographs.
_REMARKS = """\
## How it was made

By `tools/train_demo.sh` on a CPU: {kimg:.1f} thousand crops of {photos} photographs,
configs/demo.py, turned and recoloured at random (`data.augment`). The loss is L1 inside
holes; there is no discriminator and no teacher, so what it paints is soft where a picture
has texture. Holes start from a smooth continuation of the known colours (`model.fill`),
which is inside the exported graphs; the published PyTorch class has no such thing and can
not run these weights.

## Photographs

Those held out were not trained on. Besides, of each of these the left 70 %: from
scikit-image astronaut (NASA, public domain), chelsea (Stefan van der Walt, CC0-1.0),
coffee (Rachel Michetti, CC0-1.0) and rocket (SpaceX, public domain), from scikit-learn
(danielbuechele, CC-BY-2.0) and flower (danielbuechele, by way of vultilion's pages,
CC-BY-2.0).

{table}
"""


def save(checkpoint: str, evaluations: list[str], out: str, step: str = 'best'
         ) -> pathlib.Path:
    """Writes the folder.

    Args:
      checkpoint: workdir.
      evaluations: paths of reports.
      out: folder, replaced if it is one of these.
      step: which checkpoint, see `checkpoint.open_checkpoint`.

    Raises:
      ValueError: no checkpoint there, or something else in `out`.
    """
    config, _, variables, step = checkpoint_lib.load_deployed_step(checkpoint, step)
    metrics = {}
    for path in evaluations:
        metrics |= figures_of(json.loads(pathlib.Path(path).read_text()))
    photos = sum(not photo.test for photo in demo_photos.PHOTOS) + demo_photos.EMBEDDED
    card = bundles.Card(
        name='demo', data=f'{photos} photographs with free licences, listed below',
        licence='MIT', step=step, metrics=metrics,
        remarks=_REMARKS.format(
            kimg=step * config.train.batch_size / 1000, photos=photos,
            table=demo_photos.table()))
    return bundles.save_bundle(out, config, variables, card, half=True, overwrite=True)


def figures_of(report: dict) -> dict[str, float]:
    """{images, range, figure: mean} of a report of tools/evaluate.py.

    Args:
      report: its OUT.json.
    """
    images = pathlib.Path(report['image_source']).name
    return {f'{images}, holes {row["hole_range"]}, {figure}': row[figure]['mean']
            for row in report['ranges'] for figure in ('hole_psnr', 'ssim')}


def define_flags() -> None:
    flags.DEFINE_string('checkpoint', None, 'Workdir of tools/train_demo.sh.',
                        required=True)
    flags.DEFINE_string('step', 'best', 'Of it: best, latest or an iteration.')
    flags.DEFINE_multi_string('evaluation', [], 'Report of tools/evaluate.py.')
    flags.DEFINE_string('out', 'models/demo', 'Folder, replaced.')


def main(argv: Sequence[str]) -> None:
    del argv
    args = flags.FLAGS
    print(save(args.checkpoint, args.evaluation, args.out, args.step))


if __name__ == '__main__':
    # Not at import: other tools and tests may define flags of the same names.
    define_flags()
    cli.run(main)
