"""What spawned agents print, line by line, bounded in length and in number. Pure: bytes and the time come in.

An agent's output becomes events of the orchestrator's log, so that there is one log to read; the bounds keep one chatty
agent from filling it or from keeping the event loop busy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

LINE_BYTES: Final = 4096
"""A longer line is cut; what is beyond is dropped."""
LINES_PER_SECOND: Final = 100
"""More lines in a second are counted and dropped."""


class AgentOutput:
    """Splits one agent's output.

    Args:
        on_line: Gets each line, decoded, without its end.
        on_dropped: Gets the number of lines dropped in a second, once it is over.
    """

    def __init__(self, on_line: Callable[[str], None], on_dropped: Callable[[int], None]) -> None:
        self._on_line = on_line
        self._on_dropped = on_dropped
        self._partial = b""
        self._second = -1
        self._lines = 0

    def feed(self, data: bytes, now_s: float) -> None:
        """Take what was read at `now_s` (any monotonic clock)."""
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._line((self._partial + line)[:LINE_BYTES], int(now_s))
            self._partial = b""
        self._partial = (self._partial + rest)[:LINE_BYTES]

    def close(self) -> None:
        """The end: an unfinished last line counts, and what was dropped is told."""
        if self._partial:
            self._line(self._partial, self._second)
        self._tell_dropped()

    def _line(self, line: bytes, second: int) -> None:
        if second != self._second:
            self._tell_dropped()
            self._second, self._lines = second, 0
        self._lines += 1
        text = line.decode(errors="replace").rstrip()
        if text and self._lines <= LINES_PER_SECOND:
            self._on_line(text)

    def _tell_dropped(self) -> None:
        if self._lines > LINES_PER_SECOND:
            self._on_dropped(self._lines - LINES_PER_SECOND)
