"""Being told to stop: SIGTERM from a scheduler that takes the machine, or Ctrl-C."""

import signal
import threading
from typing import Self

import jax
from jax.experimental import multihost_utils

# What a process on its own listens to.  Where there are several, JAX's own service listens
# to SIGTERM and lets all agree on the iteration to stop after.
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Preempted(Exception):
    """The run was told to stop and has saved; the message says where it goes on."""


class Notice:
    """A context in which the first signal is noted; a second one acts as usual."""

    def __init__(self) -> None:
        self._previous = {}
        # Name of the signal that came, or None; used by a process on its own.
        self.signal = None

    def __enter__(self) -> Self:
        # Handlers belong to the main thread; a run in another (a notebook's) has none.
        if (jax.process_count() == 1
                and threading.current_thread() is threading.main_thread()):
            self._previous = {s: signal.signal(s, self._note) for s in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _note(self, number, frame):
        del frame
        self.signal = signal.Signals(number).name
        self._restore()

    def _restore(self):
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def reached(self, count: int) -> bool:
        """Whether to save and stop now, the same on every host.

        Args:
          count: grows by one from call to call, alike on all hosts.
        """
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(count)
        return self.signal is not None
