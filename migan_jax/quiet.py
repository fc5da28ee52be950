"""Keeps what C++ libraries write to stderr, past Python, off the terminal."""

from collections.abc import Iterator
import contextlib
import os
import sys
import tempfile


@contextlib.contextmanager
def stderr_unless_it_fails() -> Iterator[None]:
    """Around work that only says on stderr what nobody asked: shown if it raises.

    TensorFlow writes start-up remarks before anyone can set its level, LiteRT and the
    libraries of accelerators whatever was set.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        except BaseException:
            said.seek(0)
            os.write(kept, said.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
