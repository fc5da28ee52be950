"""Keeps off the terminal what libraries write there and no reader can act on."""

from collections.abc import Iterator
import contextlib
import os
import sys
import tempfile
import warnings


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


@contextlib.contextmanager
def torchscript_is_deprecated() -> Iterator[None]:
    """Around calls of torch.jit: it is what IOPaint and pnnx load, deprecated or not.

    Says so as DeprecationWarning, from PyTorch 2.14 on as FutureWarning.
    """
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning):
            warnings.simplefilter('ignore', category)
        yield
