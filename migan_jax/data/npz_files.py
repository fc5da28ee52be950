"""NumPy archives from outside: sizes are known before anything is expanded."""

import math
import os
import tokenize
import zipfile

import numpy as np


def read(path: str | os.PathLike, max_bytes: int) -> dict[str, np.ndarray]:
    """The arrays of an .npz file.

    Args:
      path: of a file on a disk.
      max_bytes: that all arrays together may have.

    Returns:
      {name: array}.

    Raises:
      ValueError: it is no such archive or is damaged, holds Python objects, would expand
        to more than `max_bytes`, or an array claims to be larger than its data.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            total = sum(member.file_size for member in members)
            if total > max_bytes:
                raise ValueError(f'it would expand to {total:,} bytes; expected at most '
                                 f'{max_bytes:,}')
            for member in members:
                _check_header(archive, member)
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    # NumPy evaluates a header as a literal, which may be nested.
    except (RecursionError, MemoryError, SyntaxError, tokenize.TokenError) as error:
        raise ValueError('a header in it is no header, or nested too deeply') from error
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f'not an .npz archive, or a damaged one ({error})') from error


def _check_header(archive, member):
    """Raises ValueError unless an array has the size that it claims."""
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        reader = {(1, 0): np.lib.format.read_array_header_1_0,
                  (2, 0): np.lib.format.read_array_header_2_0}.get(version)
        if reader is None:
            raise ValueError(f'{member.filename} is of version {version}')
        shape, _, dtype = reader(file)
    if dtype.hasobject:
        raise ValueError(f'{member.filename} holds Python objects')
    size = math.prod(shape) * dtype.itemsize
    if size > member.file_size:
        raise ValueError(f'{member.filename} claims {size:,} bytes and has '
                         f'{member.file_size:,}')
