"""Returns to an earlier checkpoint, remembered: the data went on meanwhile."""

import json
import os

from migan_jax import state as state_lib
from migan_jax import storage


class Rollbacks:
    """The rollbacks of a workdir, in DIR/rollbacks.json.

    Iteration and position in the data are equal until a run returns to an earlier
    iteration and goes on with the data after those that it diverged on.
    """

    def __init__(self, workdir):
        """Reads what earlier runs in the workdir wrote, if anything.

        Raises:
          state.CheckpointError: the file is not what this class writes.
        """
        self._path = os.path.join(workdir, 'rollbacks.json')
        self._events = []
        if storage.path_of(self._path).exists():
            try:
                self._events = [
                    (int(event['from']), int(event['to']))
                    for event in json.loads(storage.path_of(self._path).read_text())]
            except (ValueError, KeyError, TypeError) as error:
                raise state_lib.CheckpointError(
                    f'{self._path} is not readable as a list of rollbacks ({error!r}); '
                    'delete it to go on with the data of the iteration.') from error

    def __len__(self):
        return len(self._events)

    def skipped(self, step):
        """Batches that were read besides one for each of the first `step` iterations."""
        return sum(start - end for start, end in self._events if end <= step)

    def add(self, start, end, write):
        """Notes a return from iteration `start` to `end`; on disk if `write`."""
        self._events.append((start, end))
        if write:
            text = json.dumps([{'from': a, 'to': b} for a, b in self._events])
            storage.write_atomically(self._path, (text + '\n').encode())
