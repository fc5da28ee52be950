"""PyTorch's triton beside a TensorFlow that somebody else has imported already."""

import importlib
import importlib.util
import os
import sys


def load_beside_tensorflow() -> None:
    """Loads triton safely, where the process has TensorFlow and PyTorch's CUDA build.

    Call it before PyTorch is used. TensorFlow 2.20 and 2.21, when imported before
    `migan_jax` (which prevents it, see there), leave their LLVM in sight of every
    library that is loaded later, and triton, which PyTorch imports on its own some
    time, dies of it. Here it is told to look for symbols in itself first.
    """
    if ('tensorflow' in sys.modules and 'triton' not in sys.modules
            and hasattr(os, 'RTLD_DEEPBIND') and importlib.util.find_spec('triton')):
        flags = sys.getdlopenflags()
        sys.setdlopenflags(flags | os.RTLD_DEEPBIND)
        try:
            importlib.import_module('triton')
        finally:
            sys.setdlopenflags(flags)
