"""Fetches published weights by name, once, into the cache folder.

    python tools/fetch.py --list
    python tools/fetch.py places2-512

Names are what --checkpoint and migan_jax.load take; they fetch by themselves, so that
this tool is for doing it beforehand. `metrics` stands for the networks behind FID,
P-IDS, U-IDS and LPIPS. Files go into --folder (default: $MIGAN_JAX_CACHE or
~/.cache/migan_jax), their hashes are compared before anything reads them, and MI-GAN
and Co-Mod-GAN are converted once. A file without a published hash is put aside until
--confirm repeats the hash that the tool printed:

    python tools/fetch.py migan_256_ffhq.pt --confirm=SHA256

Errors go to stderr, one line each, and the exit code is 1.
"""

from collections.abc import Sequence

from absl import flags

from migan_jax import cli
from migan_jax.weights import fetching
from migan_jax.weights import named
from migan_jax.weights import table

METRICS = 'metrics'


def listing(folder: str) -> list[str]:
    """Lines on everything that has a name."""
    lines = []
    for model in table.MODELS.values():
        first = model.files[0]
        size = f'{first.size / 1e6:.0f} MB' if first.size else 'size not published'
        lines.append(f'{model.name}: {named.state_of(model, folder)}; {size}; '
                     f'licence {model.licence}; trained on {model.data}'
                     + (f' ({model.note})' if model.note else ''))
        lines += [f'    {file.described}, {file.where}' for file in model.files]
    lines.append(f'{METRICS}: the networks behind FID, P-IDS, U-IDS and LPIPS')
    lines += [f'    {file.described}, {file.where}' for file in table.NETWORKS]
    return lines


def fetch(name: str, folder: str) -> list[str]:
    """Fetches what a name stands for, and converts a generator: lines on it.

    Raises:
      ValueError: it can't be had.
    """
    if name == METRICS:
        return [f'{file.name}: {fetching.fetch(file, folder)}'
                for file in table.NETWORKS_TO_FETCH]
    bundle = named.load(name, folder)
    return [f'{name} is ready: {bundle.config.model.resolution} x '
            f'{bundle.config.model.resolution}, from {bundle.card.source}; licence '
            f'{bundle.card.licence}']


def file_called(name: str) -> table.File:
    """The table's file of a name; ValueError if there is none."""
    files = [file for model in table.MODELS.values() for file in model.files]
    for file in (*files, *table.NETWORKS):
        if file.name == name:
            return file
    raise ValueError(f'{name} is no file of the table; --list shows them.')


def define_flags() -> None:
    flags.DEFINE_bool('list', False, 'Show names, sizes, hashes, licences, addresses.')
    flags.DEFINE_string('folder', '', 'Cache folder.')
    flags.DEFINE_string('confirm', '', 'sha256 of a file whose hash is not published.')


def main(argv: Sequence[str]) -> None:
    args, names = flags.FLAGS, argv[1:]
    if args.list:
        print('\n'.join(listing(args.folder)))
    elif not names:
        raise ValueError('name what to fetch: ' + ', '.join((*table.MODELS, METRICS))
                         + '; --list says more')
    elif args.confirm:
        if len(names) != 1:
            raise ValueError('--confirm is for one file.')
        print(fetching.confirm(file_called(names[0]), args.confirm, args.folder))
    else:
        for name in names:
            print('\n'.join(fetch(name, args.folder)), flush=True)


if __name__ == '__main__':
    # Not at import: other tools and tests may define flags of the same names.
    define_flags()
    cli.run(main, arguments=True)
