"""How far a long loop is: tqdm's bar on a terminal, lines in a log, or nothing."""

from collections.abc import Callable, Collection
from typing import Any, Self, TextIO

import tqdm

# Seconds between two lines in a log.
_BETWEEN_LINES = 10.0


class Meter(tqdm.tqdm):
    """A meter that shows itself from the first second on and leaves nothing behind.

    `update(count)` counts what has been done. Iterated over, it counts by itself.

    Args:
      total: how many there are to do.
      what: they are, such as 'pictures'.
      title: stands before the count.
      say: called with a line every ten seconds, in place of a bar.
      stream: where the bar goes if it is a terminal; nothing is shown if it is none.
        stderr by default, as stdout is for results.
      options: of `tqdm.tqdm`.
    """

    # The count itself looks at the clock; tqdm would start a thread to do so.
    monitor_interval = 0

    def __init__(self, total: int, what: str, *, title: str | None = None,
                 say: Callable[[str], None] | None = None, stream: TextIO | None = None,
                 **options: Any) -> None:
        self._say = say
        if say is not None:
            options |= {'bar_format': '{desc}: {n:,} of {total:,} {unit}, {remaining} left',
                        'mininterval': _BETWEEN_LINES}
        super().__init__(
            total=total, desc=title, unit=what, file=stream, leave=False, miniters=1,
            smoothing=0, disable=None if say is None else False, **{'delay': 1} | options)

    @classmethod
    def over(cls, items: Collection[Any], what: str, stream: TextIO | None = None) -> Self:
        """A meter that yields `items`, which have a length, and counts them."""
        return cls(len(items), what, stream=stream, iterable=items)

    def skip(self, count: int) -> None:
        """Counts what was there already; it says nothing of the time that others take."""
        if not self.disable:
            self.initial += count
            self.update(count)

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Shows a text, or how far it is; overrides tqdm's."""
        if self._say is None:
            return super().display(msg, pos)
        if msg is None:
            self._say(str(self))
        return False   # there is nothing to clear


def status(stream: TextIO | None = None) -> Meter:
    """A line for `set_description_str`, on a terminal; closing it leaves nothing."""
    return Meter(1, '', stream=stream, bar_format='{desc}', delay=0)
