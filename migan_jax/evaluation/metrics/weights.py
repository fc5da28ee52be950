"""The weight files of the metric networks: which, and whether they are right.

Nothing is downloaded unless it is asked for. A metric whose file is absent is left out,
with the sentence of `MissingWeights`; one network never stands in for another.
"""

from collections.abc import Sequence
import os
from typing import NamedTuple

from migan_jax.weights import fetching
from migan_jax.weights.table import File
from migan_jax.weights.table import PT_INCEPTION
from migan_jax.weights.table import TORCHSCRIPT_INCEPTION

# Either holds the same weights; a protocol takes the file it was published with first.
INCEPTIONS = {
    'paper': (PT_INCEPTION, TORCHSCRIPT_INCEPTION),
    'stylegan': (TORCHSCRIPT_INCEPTION, PT_INCEPTION),
}


class MissingWeights(ValueError):
    """A weight file is not there; the message says which one and where to put it."""


class WrongWeights(ValueError):
    """A file of the right name holds something else."""


class Found(NamedTuple):
    """A weight file on disk, its hash checked."""

    path: str
    sha256: str


def find(files: Sequence[File], folder: str = '', fetch: bool = False) -> Found:
    """The first of some interchangeable files that is there.

    Args:
        files: `table.File`s, the preferred one first.
        folder: where to look; `cache_folder()` if empty. A file that comes with a
            Python package is looked for there, too; the package isn't imported.
        fetch: download the preferred one if none is there.

    Returns:
        `Found`.

    Raises:
        MissingWeights: none of them is there.
        WrongWeights: the hash of the one that is there differs.
        fetching.FetchError: it was to be fetched and can't be.
    """
    folder = folder or fetching.cache_folder()
    for file in files:
        for place in (folder, *fetching.package_folders(file.package)):
            path = os.path.join(place, file.name)
            if os.path.isfile(path):
                return Found(path, _checked_hash(path, file))
    if fetch and files[0].url:
        path = fetching.fetch(files[0], folder)
        return Found(path, _checked_hash(path, files[0]))
    wanted = ' or '.join(file.described for file in files)
    packages = [file.package.partition('/')[0] for file in files if file.package]
    besides = f', or install the Python package {packages[0]!r}' if packages else ''
    raise MissingWeights(
        f'put {wanted} into {folder}{besides}; environment variable {fetching.CACHE_VARIABLE} '
        'names another folder')


def _checked_hash(path, file):
    right, found = fetching.is_right(file, path)
    digest = found.partition(' ')[2]
    if not right:
        raise WrongWeights(
            f'{path}: sha256 is {digest} ({os.path.getsize(path):,} bytes), expected '
            f'{file.described}: the file is damaged or another one; replace or remove '
            'it')
    return digest
