"""The checkpoints that a run writes, in the background, and its returns to earlier ones."""

import contextlib
import json
import os

from absl import logging
import jax

from migan_jax import checkpoint as checkpoint_lib
from migan_jax import storage

# What storage says through tensorstore, which raises ValueError for everything.
_TROUBLE = ('RESOURCE_EXHAUSTED', 'UNAVAILABLE', 'DEADLINE_EXCEEDED', 'os_error_code')


def _is_storage_trouble(error):
    return isinstance(error, OSError) or any(sign in str(error) for sign in _TROUBLE)


class Checkpoints:
    """Checkpoints of a workdir.

    A save that fails for want of storage is reported and owed; training goes on, the
    earlier checkpoints stay. In a run of several processes it ends the run instead, as
    the processes would not agree on who saves when.

    Attributes:
      owed: a save has failed since the last one that did not.
    """

    def __init__(self, workdir, config):
        """Opens DIR/checkpoints of a run; half-written ones are removed."""
        self._workdir, self._config = workdir, config
        self._manager = self._open()
        self.owed = False

    def _open(self):
        config = self._config
        return checkpoint_lib.checkpoint_manager(
            self._workdir, keep_last=config.checkpoint.keep_last,
            metric=config.eval.best_metric, mode=config.eval.best_mode,
            setting=checkpoint_lib.evaluation_setting(config))

    def latest_step(self):
        """Iteration of the newest complete checkpoint, or None."""
        return self._manager.latest_step()

    def restore(self, state):
        """`checkpoint.restore` of the newest."""
        return checkpoint_lib.restore(self._manager, state)

    def save(self, state, figures=None):
        """Saves an unreplicated state; returns before the files are written.

        Args:
          state: TrainState on the host.
          figures: of an evaluation of this state, or None.
        """
        self.wait()   # for the one before
        with self._failing_softly():
            checkpoint_lib.save(self._manager, state, figures)
            self.owed = False

    def poll(self):
        """Notices a failure without waiting."""
        with self._failing_softly():
            self._manager.check_for_errors()

    def wait(self):
        """Until what was saved is on disk, or has failed."""
        with self._failing_softly():
            self._manager.wait_until_finished()

    def close(self):
        self.wait()
        self._manager.close()

    @contextlib.contextmanager
    def _failing_softly(self):
        try:
            yield
        except (OSError, ValueError, jax.errors.JaxRuntimeError) as error:
            if jax.process_count() > 1 or not _is_storage_trouble(error):
                raise
            # A new manager knows nothing of the failed save and removes its files. The
            # old one says once more what was caught here.
            with contextlib.suppress(OSError, ValueError, jax.errors.JaxRuntimeError):
                self._manager.close()
            self._manager = self._open()
            self.owed = True
            reason = str(error).splitlines()[0]
            logging.error(
                'a checkpoint could not be written to %s; training goes on and tries '
                'again, the last complete one is that of iteration %s: %s',
                self._workdir, self.latest_step(), reason)


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
                raise checkpoint_lib.CheckpointError(
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
