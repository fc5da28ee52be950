"""Uploads a saved model to a model hub, from where others load it by its address.

    python tools/push.py --checkpoint=runs/mine --to=hf://owner/name --licence=CC0-1.0

--checkpoint is whatever the other tools take; a folder of `Model.save` goes up with the
card it has, anything else is saved first, with --data, --licence and --remarks in its
model card. Needs the extra `hub` (pip install -e '.[hub]') and a login: hf auth login.
Others then load it: migan_jax.load('hf://owner/name').

Errors go to stderr, one line each, and the exit code is 1.
"""

from collections.abc import Sequence
import tempfile
from typing import Any

from absl import flags

from migan_jax import checkpoint as checkpoint_lib
from migan_jax import cli
from migan_jax.weights import bundles
from migan_jax.weights import hub


def run(checkpoint: str, to: str, card: bundles.Card, half: bool = False,
        private: bool = False, step: str | int = 'best', **options: Any) -> str:
    """Saves a checkpoint as a folder, unless it is one, and uploads that.

    Args:
      checkpoint: see `checkpoint.open_checkpoint`.
      to: 'hf://owner/name[@branch]'.
      card: `bundles.Card`; its step is filled in.
      half: store float16.
      private: of a new repository.
      step: which checkpoint, see `checkpoint.open_checkpoint`.
      **options: of `hub.push`.

    Returns:
      What `hub.push` returns.

    Raises:
      ValueError: not a checkpoint, not an address, or refused by the hub.
    """
    hub.parse(to)
    if bundles.is_bundle(checkpoint):
        return hub.push(checkpoint, to, private=private, **options)
    config, _, variables, step = checkpoint_lib.load_deployed_step(checkpoint, step)
    print(f'model: {checkpoint_lib.said(checkpoint, config, step)}')
    with tempfile.TemporaryDirectory(prefix='migan_jax.') as folder:
        bundles.save_bundle(folder, config, variables, card._replace(step=step),
                            half=half)
        return hub.push(folder, to, private=private, **options)


def define_flags() -> None:
    flags.DEFINE_string('checkpoint', None, 'What to upload.', required=True)
    flags.DEFINE_string('step', 'best', 'Of a workdir: best, latest or an iteration.')
    flags.DEFINE_string('to', None, 'hf://owner/name, or hf://owner/name@branch.',
                        required=True)
    flags.DEFINE_string('data', 'not said', 'What it was trained on, for the card.')
    flags.DEFINE_string('licence', '', 'Of the weights, for the card.')
    flags.DEFINE_string('remarks', '', 'What else the card says.')
    flags.DEFINE_bool('half', False, 'Store float16, half the size.')
    flags.DEFINE_bool('private', False, 'Make a new repository private.')


def main(argv: Sequence[str]) -> None:
    del argv
    args = flags.FLAGS
    card = bundles.Card(name=args.to.rpartition('/')[2], data=args.data,
                        licence=args.licence, remarks=args.remarks)
    print(run(args.checkpoint, args.to, card, args.half, args.private,
              args.step))


if __name__ == '__main__':
    # Not at import: other tools and tests may define flags of the same names.
    define_flags()
    cli.run(main)
