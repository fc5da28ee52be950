"""Paths on disks and on Cloud Storage; files that are whole or not there."""

import os
import uuid

from etils import epath


def path_of(directory, *names):
    """A path below a directory, local or on Cloud Storage (gs://)."""
    if '://' not in os.fspath(directory):
        directory = os.path.abspath(directory)
    return epath.Path(directory).joinpath(*names)


def write_atomically(path, data):
    """Writes bytes so that `path` is never seen half-written."""
    path = path_of(path)
    # Not from the file's name, which may be as long as names can be, nor from a process's
    # number, which another host on the same storage may have too.
    temporary = path.with_name(f'.{uuid.uuid4().hex}.tmp')
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def shown(name):
    """A file's name or any text for a message: one printable line, else escaped."""
    return ''.join(c if c.isprintable() else ascii(c)[1:-1] for c in os.fspath(name))


def listed(names, limit=12):
    """The first few names in one line."""
    more = [f'and {len(names) - limit} more'] if len(names) > limit else []
    return ', '.join([str(name) for name in names[:limit]] + more)
