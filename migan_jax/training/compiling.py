"""What is compiled: said, with about how long that takes and how long it took; and kept."""

from collections.abc import Callable
import os
import time
from typing import Any

from absl import logging
import jax

from migan_jax import storage

# Seconds relative to G's, measured with configs/quickstart.py on CPU; that of the
# path-length step, which only a teacher's training has, is a guess.
_WEIGHTS = {'the initial state': 0.28, 'G': 1.0, 'D': 1.0, 'R1': 1.0,
            'the path-length step': 1.5, 'evaluation': 0.35}


class Compilations:
    """Functions of one run that are compiled when they are first called.

    The time of one tells those of the next: the same machine, model and compiler, and
    the same luck with functions kept on disk from an earlier run.
    """

    def __init__(self) -> None:
        self._unit = None   # seconds for a weight of 1, by the last one

    def announced(self, name: str, function: Callable) -> Callable:
        """A function that logs its first call's time, most of it compilation.

        Args:
          name: key of `_WEIGHTS`.
          function: a compiled one.
        """
        compiled = False

        def call(*args: Any) -> Any:
            nonlocal compiled
            if compiled:
                return function(*args)
            compiled = True
            logging.info('compiling %s%s', name, '' if self._unit is None else (
                f', about {max(1, self._unit * _WEIGHTS[name]):.0f} s'))
            began = time.perf_counter()
            result = function(*args)
            seconds = time.perf_counter() - began
            self._unit = seconds / _WEIGHTS[name]
            logging.info('compiled %s in %.1f s', name, seconds)
            return result
        return call


def keep(workdir: os.PathLike | str) -> None:
    """Keeps what JAX compiles beside a workdir, for the next start to find.

    In a bucket, too, which outlives the machines of a pod. Of several processes JAX lets the
    first write. $JAX_COMPILATION_CACHE_DIR goes before. For programs to call.

    Args:
      workdir: of the run; a whole bucket has nothing beside it, there they lie within.
    """
    folder = os.environ.get('JAX_COMPILATION_CACHE_DIR')
    if not folder:
        path = storage.path_of(workdir)
        home = path if os.fspath(path.parent) == 'gs://' else path.parent
        folder = os.fspath(home / '.jax_cache')
        jax.config.update('jax_compilation_cache_dir', folder)
    if (storage.is_bucket(folder)
            and not os.environ.get('JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES')):
        # What XLA keeps of its own, on GPUs, would go there too; it knows disks only, and
        # others report that the first compilation ends with an error.
        jax.config.update('jax_persistent_cache_enable_xla_caches', 'none')
