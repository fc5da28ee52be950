"""What a run writes for TensorBoard."""

from collections.abc import Mapping
import os
import pathlib
import tempfile

import numpy as np

from migan_jax import storage


class Board:
    """TensorBoard's files in a workdir.

    On a disk, figures are there at once. On Cloud Storage each flush of a file would upload
    all of it again, so they are written on this machine, and `publish` uploads them: as a
    file that is complete, the next figures begin another. TensorBoard reads them in turn.
    """

    def __init__(self, workdir: os.PathLike | str, writes: bool = True) -> None:
        """Makes nothing in the workdir yet.

        Args:
          workdir: of the run.
          writes: False of all processes but the first: nothing is written then.
        """
        self._workdir, self._folder, self._writer = workdir, os.fspath(workdir), None
        self._writes = writes
        if writes and storage.is_bucket(workdir):
            # Removed when the process ends.
            self._waiting = tempfile.TemporaryDirectory(prefix='migan_jax.')
            self._folder = self._waiting.name

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Adds {name: number} of an iteration."""
        if self._writes:
            self._opened().write_scalars(step, scalars)

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Adds {name: u8[1, H, W, 3]} of an iteration."""
        if self._writes:
            self._opened().write_images(step, images)

    def publish(self) -> None:
        """Brings what was written into the workdir.

        What can't be uploaded now goes the next time.
        """
        if self._folder == os.fspath(self._workdir):
            if self._writer is not None:
                self._writer.flush()
            return
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
        for path in sorted(pathlib.Path(self._folder).iterdir()):
            storage.write_atomically(
                storage.path_of(self._workdir, path.name), path.read_bytes())
            path.unlink()

    def _opened(self):
        if self._writer is None:
            # Not at the top: it imports TensorFlow, which tools that import the loop can
            # do without.
            from clu import metric_writers

            # In a thread, as pictures take a while to compress.
            self._writer = metric_writers.AsyncWriter(
                metric_writers.SummaryWriter(self._folder))
        return self._writer
