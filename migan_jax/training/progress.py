"""How a run is doing: images, time, and whether its numbers are finite."""

import collections
from collections.abc import Iterator, Mapping
import resource
import sys
import time
from typing import TypeVar

from absl import logging
import jax
import numpy as np

# End of the names of metrics that count the gradient's non-finite elements; what stands
# before the first underscore of any metric's name is the phase: g, d, r1 or path.
NONFINITE = '_nonfinite'

_Value = TypeVar('_Value')


class TrainingDiverged(RuntimeError):
    """Losses or gradients stayed non-finite; names the last good checkpoint."""


def memory_gib() -> dict[str, float]:
    """{'host_gib': the process's largest so far; 'device_gib': likewise, where known}."""
    # In KiB on Linux, in bytes on macOS.
    unit = 1 if sys.platform == 'darwin' else 1024
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    memory = {'host_gib': largest / 2**30}
    stats = jax.local_devices()[0].memory_stats() or {}
    if 'peak_bytes_in_use' in stats:
        memory['device_gib'] = stats['peak_bytes_in_use'] / 2**30
    return memory


def duration(seconds: float) -> str:
    """h:mm:ss."""
    seconds = round(seconds)
    return f'{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}'


class Progress:
    """Counts images and time; averages metrics between two reports.

    No meter as `meter` has them: it says nothing itself, and pauses are not training.
    """

    def __init__(self, batch_size: int, total_steps: int) -> None:
        self._batch_size, self._total = batch_size, total_steps
        self._start = self._step = None
        self._waited = 0.0
        self._sums = collections.defaultdict(list)

    def add(self, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            if not name.endswith(NONFINITE):
                self._sums[name].append(value)

    def restart(self, step: int) -> None:
        """Begins a new interval, so that what happened before is not timed."""
        self._start, self._step = time.perf_counter(), step
        self._waited = 0.0

    def wait(self, values: Iterator[_Value]) -> _Value:
        """`next(values)`; the time that takes is reported."""
        began = time.perf_counter()
        value = next(values)
        self._waited += time.perf_counter() - began
        return value

    def pause(self, seconds: float) -> None:
        """Takes seconds that were not training out of the interval."""
        self._start += seconds

    def report(self, step: int) -> tuple[dict[str, float], float]:
        """Means since the last report, and seconds left.

        Among the means are images_per_second and data_wait, the share of the time in
        which the loop had nothing to hand to the devices; they may still have been busy.
        """
        seconds = time.perf_counter() - self._start
        rate = (step - self._step) / seconds
        means = {name: float(np.mean(values)) for name, values in self._sums.items()}
        self._sums.clear()
        means['images_per_second'] = rate * self._batch_size
        means['data_wait'] = self._waited / seconds
        return means, (self._total - step) / rate


class FiniteWatch:
    """Counts non-finite losses and gradients; stops training when they stay so.

    Attributes:
      streak: iterations in a row up to the last that were non-finite.
      totals: {phase: non-finite iterations so far}, phases being g, d, r1 and path.
    """

    def __init__(self, patience: int) -> None:
        self._patience = patience
        self.streak = 0
        self.totals = collections.Counter()

    def check(self, step: int, metrics: Mapping[str, float], last_good: int | None) -> None:
        """Counts one iteration.

        Args:
          step: the iteration.
          metrics: {name: float} of its phases.
          last_good: iteration of the last checkpoint, or None.

        Raises:
          TrainingDiverged: `patience` iterations in a row were non-finite.
        """
        bad = {name: value for name, value in metrics.items()
               if not np.isfinite(value) or name.endswith(NONFINITE) and value > 0}
        if not bad:
            self.streak = 0
            return
        self.streak += 1
        self.totals.update({name.split('_')[0] for name in bad})
        shown = ', '.join(f'{name} {value:g}' for name, value in bad.items())
        logging.warning('iteration %d: non-finite: %s (%d in a row)',
                        step, shown, self.streak)
        if self.streak >= self._patience:
            kept = ('there is no checkpoint yet' if last_good is None else
                    f'the last good checkpoint is that of iteration {last_good}, which '
                    'is kept')
            raise TrainingDiverged(
                f'{self.streak} iterations in a row up to {step} were non-finite: '
                f'{shown}; {kept}. The same command resumes from there; a lower learning '
                'rate (--config.optim.g_lr, --config.optim.d_lr), float32 '
                '(--config.model.dtype=float32) or '
                '--config.train.on_divergence=rollback may help.')
