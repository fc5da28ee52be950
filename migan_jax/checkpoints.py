"""The checkpoints that a run writes: in the background, and tried again when one fails."""

import contextlib

from absl import logging
import jax

from migan_jax import state as state_lib

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
        return state_lib.checkpoint_manager(
            self._workdir, keep_last=config.checkpoint.keep_last,
            metric=config.eval.best_metric, mode=config.eval.best_mode)

    def latest_step(self):
        """Iteration of the newest complete checkpoint, or None."""
        return self._manager.latest_step()

    def restore(self, state):
        """`state.restore` of the newest."""
        return state_lib.restore(self._manager, state)

    def save(self, state, figures=None):
        """Saves an unreplicated state; returns before the files are written.

        Args:
          state: TrainState on the host.
          figures: of an evaluation of this state, or None.
        """
        self.wait()   # for the one before
        with self._failing_softly():
            state_lib.save(self._manager, state, figures)
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
