"""The checkpoints that a run writes, in the background, and its returns to earlier ones."""

from collections.abc import Mapping
import concurrent.futures
import contextlib
import json
import os
from typing import Any

from absl import logging
import jax
import ml_collections

from migan_jax import checkpoint as checkpoint_lib
from migan_jax import storage
from migan_jax.training import agreement
from migan_jax.training.state import TrainState

# So long a save waits for the one before. On storage that does not answer, TensorFlow and
# TensorStore repeat themselves for many minutes.
PATIENCE_S = 60


class Checkpoints:
    """Checkpoints of a workdir.

    Where a run has several processes, the first one writes by itself: no process waits for
    another, and what holds for one process holds for all. A save that fails for want of
    storage, or that storage keeps waiting, is reported and owed; training goes on, the
    earlier checkpoints stay.

    Attributes:
      owed: a save has failed since the last one that did not. Only the first process
        knows; after `wait` all do.
    """

    def __init__(self, workdir: os.PathLike | str, config: ml_collections.ConfigDict) -> None:
        """Opens DIR/checkpoints of a run; half-written ones are removed."""
        self._workdir, self._config = workdir, config
        self._is_writer = jax.process_index() == 0
        # One thread, and saves in turn. Orbax's own threads for it outlive a failure by
        # minutes, and wait for the other processes.
        self._thread = concurrent.futures.ThreadPoolExecutor(1, 'checkpoint')
        self._saving = None   # (iteration, future) of a save that is not settled
        self._abandoned = False
        self._manager = self._latest = None
        if self._is_writer:
            self._manager = self._open()
        self._latest = agreement.from_first(self._newest)
        self.owed = False

    def _open(self):
        config = self._config
        return checkpoint_lib.checkpoint_manager(
            self._workdir, keep_last=config.checkpoint.keep_last,
            metric=config.eval.best_metric, mode=config.eval.best_mode,
            setting=checkpoint_lib.evaluation_setting(config), in_background=False)

    def _newest(self):
        return self._manager.latest_step()

    def latest_step(self) -> int | None:
        """Iteration of the newest complete checkpoint, or None."""
        return self._latest

    def restore(self, state: TrainState) -> TrainState:
        """`checkpoint.restore` of the newest that reads, the same on all processes.

        Newer ones that do not are put aside and named.

        Raises:
          checkpoint.CheckpointError: none reads.
        """
        restored = []
        self._latest = agreement.from_first(
            lambda: self._restore_first(state, restored.append))
        if restored:
            return restored[0]
        with contextlib.closing(checkpoint_lib.checkpoint_manager(
                self._workdir, read_only=True)) as manager:
            return checkpoint_lib.restore(manager, state, self._latest)

    def _restore_first(self, state, take):
        """Restores on the first process; the step."""
        steps = sorted(self._manager.all_steps(), reverse=True)
        damaged = []
        for step in steps:
            try:
                take(checkpoint_lib.restore(self._manager, state, step))
            except checkpoint_lib.DamagedCheckpoint as error:
                logging.error('%s', error)
                damaged.append((step, error))
                continue
            self._put_aside([number for number, _ in damaged], step)
            return step
        raise damaged[0][1]

    def _put_aside(self, steps, instead):
        """Takes damaged checkpoints out of the way of those to come."""
        if not steps:
            return
        self._manager.close()
        for step in steps:
            folder = storage.path_of(self._workdir, 'checkpoints', str(step))
            aside = storage.path_of(self._workdir, 'damaged-checkpoints', str(step))
            aside.parent.mkdir(parents=True, exist_ok=True)
            if aside.exists():
                aside.rmtree()
            folder.rename(aside)
            logging.error(
                'the checkpoint of iteration %d is damaged and was moved to %s; the run '
                'goes on from iteration %d, the %d iterations after it are trained again',
                step, aside, instead, step - instead)
        self._manager = self._open()

    def save(self, state: TrainState | None, figures: Mapping[str, Any] | None = None) -> None:
        """Saves an unreplicated state; returns before the files are written.

        Args:
          state: TrainState on the host.
          figures: of an evaluation of this state, or None.
        """
        if not self._is_writer:
            return
        if not self._settle(PATIENCE_S):
            self._report('storage has not taken the one before yet')
            return
        step = None if state is None else int(state.step)
        self._saving = step, self._thread.submit(
            checkpoint_lib.save, self._manager, state, figures)

    def poll(self) -> None:
        """Notices a failure without waiting."""
        self._settle(0)

    def wait(self) -> None:
        """Until what was saved is on disk, or has failed, on all processes."""
        self._settle(None)
        self._latest, self.owed = agreement.from_first(lambda: (self._latest, self.owed))

    def close(self) -> None:
        """Waits for a save that is under way, within bounds, and ends."""
        if not self._settle(PATIENCE_S):
            self._report('storage does not take it')
            self._abandoned = True
        self._thread.shutdown(wait=not self._abandoned, cancel_futures=True)
        if self._manager is not None and not self._abandoned:
            self._manager.close()

    def _settle(self, patience_s):
        """Notes how the last save ended; False if it has not in this time."""
        if self._saving is None:
            return True
        step, future = self._saving
        try:
            future.result(patience_s)
        except concurrent.futures.TimeoutError:
            if not future.done():
                return False
            self._fail(step, future.exception())
        # Whatever a file system, TensorFlow, TensorStore or Google's client raise.
        except Exception as error:
            self._fail(step, error)
        else:
            self._latest, self.owed = step, False
        self._saving = None
        return True

    def _fail(self, step, error):
        self._saving = None
        if not storage.is_trouble(error):
            raise error
        # A new manager knows nothing of the failed save and removes its files. Storage
        # that fails may fail it too, which is no news.
        try:
            self._manager.close()
            self._manager = self._open()
        except Exception as again:
            if not storage.is_trouble(again):
                raise
        self._report(str(error).partition('\n')[0][:300])

    def _report(self, reason):
        self.owed = True
        logging.error(
            'a checkpoint could not be written to %s; training goes on and tries '
            'again, the last complete one is that of iteration %s: %s',
            self._workdir, self._latest, reason)


class Rollbacks:
    """The rollbacks of a workdir, in DIR/rollbacks.json.

    Iteration and position in the data are equal until a run returns to an earlier
    iteration and goes on with the data after those that it diverged on.
    """

    def __init__(self, workdir: os.PathLike | str) -> None:
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

    def __len__(self) -> int:
        return len(self._events)

    def skipped(self, step: int) -> int:
        """Batches that were read besides one for each of the first `step` iterations."""
        return sum(start - end for start, end in self._events if end <= step)

    def add(self, start: int, end: int, write: bool) -> None:
        """Notes a return from iteration `start` to `end`; on disk if `write`."""
        self._events.append((start, end))
        if write:
            text = json.dumps([{'from': a, 'to': b} for a, b in self._events])
            storage.write_atomically(self._path, (text + '\n').encode())
