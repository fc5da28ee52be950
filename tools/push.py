"""Uploads a saved model to a model hub, from where others load it by its address.

    python tools/push.py --checkpoint=runs/mine --to=hf://owner/name --licence=CC0-1.0

--checkpoint is whatever the other tools take. A model that has a card (of `Model.save`,
a hub, or `demo`) keeps what it says; --data, --licence and --remarks say it anew. Needs
the extra `hub` (pip install -e '.[hub]') and a login: hf auth login.
Others then load it: migan_jax.load('hf://owner/name').

Errors go to stderr, one line each, and the exit code is 1.
"""

from collections.abc import Mapping, Sequence
import tempfile
from typing import Any

from absl import flags

from migan_jax import checkpoint as checkpoint_lib
from migan_jax import cli
from migan_jax.weights import bundles
from migan_jax.weights import hub
from migan_jax.weights import opening


def run(checkpoint: str, to: str, given: Mapping[str, str], half: bool = False,
        private: bool = False, step: str | int = 'best', **options: Any) -> str:
    """Saves a checkpoint as a folder, unless it is one, and uploads that.

    Args:
      checkpoint: see `checkpoint.open_checkpoint`.
      to: 'hf://owner/name[@branch]'.
      given: {field of `bundles.Card`: what it says}, in place of what is known.
      half: store float16.
      private: of a new repository.
      step: which checkpoint, see `checkpoint.open_checkpoint`.
      **options: of `hub.push`.

    Returns:
      What `hub.push` returns.

    Raises:
      ValueError: not a checkpoint, not an address, or refused by the hub.
    """
    address = hub.parse(to)
    bundle = opening.open_bundle(checkpoint)
    if bundle is None:
        config, _, variables, step = checkpoint_lib.load_deployed_step(checkpoint, step)
        known = bundles.card_of(config)._replace(step=step)
    else:
        config, variables, known, step = (
            bundle.config, bundle.variables, bundle.card, bundle.card.step)
        half = half or bundle.half
    print(f'model: {checkpoint_lib.said(checkpoint, config, step)}')
    if bundles.is_bundle(checkpoint) and not given and half == bundle.half:
        return hub.push(checkpoint, to, private=private, **options)
    card = known._replace(name=address.repository.rpartition('/')[2], **given)
    with tempfile.TemporaryDirectory(prefix='migan_jax.') as folder:
        bundles.save_bundle(folder, config, variables, card, half=half)
        return hub.push(folder, to, private=private, **options)


def define_flags() -> None:
    flags.DEFINE_string('checkpoint', None, 'What to upload.', required=True)
    flags.DEFINE_string('step', 'best', 'Of a workdir: best, latest or an iteration.')
    flags.DEFINE_string('to', None, 'hf://owner/name, or hf://owner/name@branch.',
                        required=True)
    flags.DEFINE_string('data', None, 'What it was trained on, for the card.')
    flags.DEFINE_string('licence', None, 'Of the weights, for the card.')
    flags.DEFINE_string('remarks', None, 'What else the card says.')
    flags.DEFINE_bool('half', False, 'Store float16, half the size.')
    flags.DEFINE_bool('private', False, 'Make a new repository private.')


def main(argv: Sequence[str]) -> None:
    del argv
    args = flags.FLAGS
    given = {field: value for field in ('data', 'licence', 'remarks')
             if (value := getattr(args, field)) is not None}
    print(run(args.checkpoint, args.to, given, args.half, args.private, args.step))


if __name__ == '__main__':
    # Not at import: other tools and tests may define flags of the same names.
    define_flags()
    cli.run(main)
