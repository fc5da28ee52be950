"""Gathers the metric networks in one file, for evaluation during training.

    python tools/prepare_metrics.py --out=metric_networks.npz
    python -m migan_jax.main ... --config.eval.networks=metric_networks.npz

Reads the published weight files of FID's Inception and of LPIPS with AlexNet from
--weights (default: $MIGAN_JAX_CACHE or ~/.cache/migan_jax), checks their hashes, and
writes plain arrays, so that a machine that trains needs no PyTorch. What is not there
is left out, and the tool says which file to put where; --fetch downloads it. --protocol
says how images are fed to Inception, as in tools/evaluate.py, and goes into the file.
"""

from collections.abc import Sequence
import os

from absl import flags

from migan_jax import cli
from migan_jax import meter
from migan_jax.evaluation.metrics import inception
from migan_jax.evaluation import networks as networks_lib

# Of those that need networks, what evaluation during training gives.
METRICS = ('fid', 'lpips')


def run(out: os.PathLike | str, weights: str = '', protocol: str = 'paper',
        fetch: bool = False) -> networks_lib.Loaded:
    """Writes the file that `networks_lib.read_networks` reads.

    Args:
      out: its path; the folder is made if missing.
      weights: folder of the published files; the cache folder if empty.
      protocol: 'paper' or 'stylegan'.
      fetch: download the files that are not there.

    Returns:
      `networks_lib.Loaded`.

    Raises:
      ValueError: none of the networks is there, or a file has the wrong hash or does
        not hold what it should; nothing is written then.
    """
    chosen = inception.PROTOCOLS[protocol]
    loaded = networks_lib.load_networks(chosen, weights, METRICS, fetch)
    if not loaded.files:
        raise ValueError('\n'.join(
            ['no metric network is there', *loaded.missing.values()]))
    os.makedirs(os.path.dirname(os.path.abspath(out)), exist_ok=True)
    networks_lib.write_networks(out, chosen, loaded)
    return loaded


def define_flags() -> None:
    flags.DEFINE_string('weights', '', 'Folder of the published weight files.')
    flags.DEFINE_bool('fetch', False, 'Download the weight files that are not there.')
    flags.DEFINE_enum('protocol', 'paper', sorted(inception.PROTOCOLS), 'See above.')
    flags.DEFINE_string('out', None, 'File to be written (.npz).', required=True)


def main(argv: Sequence[str]) -> None:
    del argv
    args = flags.FLAGS
    with meter.status() as status:
        status.set_description_str('reading weight files')
        loaded = run(args.out, args.weights, args.protocol, args.fetch)
    for name, digest in loaded.files.items():
        print(f'read {name}, sha256 {digest}')
    for sentence in loaded.missing.values():
        print(sentence)
    print(f'wrote {args.out} ({os.path.getsize(args.out):,} bytes, protocol '
          f'{args.protocol})')


if __name__ == '__main__':
    # Not at import: other tools and tests may define flags of the same names.
    define_flags()
    cli.run(main)
