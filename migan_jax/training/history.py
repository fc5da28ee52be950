"""How far a run is, in images, whatever the batch sizes that it went through."""

from collections.abc import Callable
import json
import math
import os
from typing import NamedTuple

from migan_jax import checkpoint as checkpoint_lib
from migan_jax import storage


class Segment(NamedTuple):
    """A stretch of iterations of one batch size and consecutive data.

    Attributes:
      step: finished iterations at its start.
      images: trained on until then.
      batch_size: from then on, over all devices.
      data_batch: the first batch of data, counted in batches of this size.
    """
    step: int
    images: int
    batch_size: int
    data_batch: int


class History:
    """The segments of a workdir, in DIR/history.json.

    A checkpoint knows its iteration; this is what turns it into images and into a
    position in the data.
    """

    def __init__(self, workdir: os.PathLike | str, batch_size: int,
                 skipped: Callable[[int], int] = lambda step: 0) -> None:
        """Reads what earlier runs in the workdir wrote, if anything.

        Args:
          workdir: of the run.
          batch_size: of a run of version 0.1, which wrote none.
          skipped: of `checkpointing.Rollbacks`, of such a run.

        Raises:
          checkpoint.CheckpointError: the file is not what this class writes.
        """
        self._path = os.path.join(workdir, 'history.json')
        self._batch_size, self._skipped = batch_size, skipped
        self._segments = []
        if storage.path_of(self._path).exists():
            try:
                self._segments = [
                    Segment(**{name: int(values[name]) for name in Segment._fields})
                    for values in json.loads(storage.path_of(self._path).read_text())]
            except (ValueError, KeyError, TypeError) as error:
                raise checkpoint_lib.CheckpointError(
                    f'{self._path} is not readable as the history of a run ({error!r}); '
                    'delete it, and the run goes on as if its batch size had always '
                    'been that of its config.json.') from error

    def _segment(self, step):
        found = [s for s in self._segments if s.step <= step]
        if found:
            return found[-1]
        return Segment(0, 0, self._batch_size, self._skipped(step))

    def images(self, step: int) -> int:
        """Images trained on in the first `step` iterations."""
        segment = self._segment(step)
        return segment.images + (step - segment.step) * segment.batch_size

    def data_batch(self, step: int) -> int:
        """The batch of data that comes after `step` iterations, counted from 0."""
        segment = self._segment(step)
        return segment.data_batch + step - segment.step

    def go_on(self, step: int, batch_size: int) -> None:
        """Notes that a run starts or resumes after `step` iterations."""
        self._segments = [s for s in self._segments if s.step <= step]
        last = self._segment(step)
        if self._segments and last.batch_size == batch_size:
            return
        # Rounded up: up to one batch is left out, none comes twice.
        data_batch = math.ceil(self.data_batch(step) * last.batch_size / batch_size)
        self._segments.append(
            Segment(step, self.images(step), batch_size, data_batch))

    def roll_back(self, start: int, end: int) -> None:
        """Notes a return from iteration `start` to `end`; data go on where they are."""
        batch_size, data_batch = self._segment(start).batch_size, self.data_batch(start)
        images = self.images(end)
        self._segments = [s for s in self._segments if s.step < end]
        self._segments.append(Segment(end, images, batch_size, data_batch))

    def save(self) -> None:
        """Writes the file."""
        text = json.dumps([segment._asdict() for segment in self._segments], indent=1)
        storage.write_atomically(self._path, (text + '\n').encode())
