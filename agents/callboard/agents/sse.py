"""Server-sent events from pieces of bytes, as the WHATWG's HTML standard parses them (section 9.2.6).

Lines are put together as bytes, so a character or an end of line that is split between pieces is whole again. Only the
data of events is kept; comments, which servers send to keep a connection open, are counted as lines and say nothing.
"""

import re
from collections.abc import Iterator
from typing import Final

EVENT_BYTES: Final = 1024 * 1024
"""How large one event may be."""

_END: Final = re.compile(rb"\r\n|\n|\r")


class EventTooLargeError(Exception):
    """An event is larger than is allowed."""


class EventStream:
    """The events of one answer.

    Attributes:
        lines: how many have come, empty ones left out.
    """

    def __init__(self) -> None:
        self.lines = 0
        self._begun = b""
        self._data: list[bytes] = []
        self._size = 0
        self._ended_on_cr = False

    def feed(self, piece: bytes) -> Iterator[str]:
        """The data of each event that `piece` completes.

        Raises:
            EventTooLargeError: one is larger than `EVENT_BYTES`.
        """
        if self._ended_on_cr:
            # The second half of an end of line.
            piece = piece.removeprefix(b"\n")
        self._ended_on_cr = piece.endswith(b"\r")
        *lines, self._begun = _END.split(self._begun + piece)
        for line in lines:
            if line:
                self._take(line)
            else:
                yield from self.finish()
        if self._size + len(self._begun) > EVENT_BYTES:
            raise EventTooLargeError

    def finish(self) -> Iterator[str]:
        """The data of an event of which all lines have come; at the end of the answer, too, where some send no more."""
        if self._data:
            yield b"\n".join(self._data).decode(errors="replace")
        self._data, self._size = [], 0

    def _take(self, line: bytes) -> None:
        self.lines += 1
        name, _, value = line.partition(b":")
        if name.removeprefix(b"\xef\xbb\xbf") == b"data":
            self._data.append(value.removeprefix(b" "))
            self._size += len(value) + 1
