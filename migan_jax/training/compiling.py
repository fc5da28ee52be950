"""Says what is being compiled, about how long that takes, and how long it took."""

from collections.abc import Callable
import time
from typing import Any

from absl import logging

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
