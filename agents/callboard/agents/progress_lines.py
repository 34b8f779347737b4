"""Lines of standard error as progress.

- A line that begins with the chosen prefix is progress, the rest of it its message; the empty prefix takes every line.
- A message that begins like `40% ` gives the percentage, too.
- A line ends with a line feed or, since progress bars draw themselves so, a carriage return. Empty ones say nothing.
- A long line is cut. Of the lines that come together only the last is told: the latest progress is the one that counts.
"""

import re
from typing import Final

from callboard.agents.context import TaskContext

LINE_BYTES: Final = 2_000
"""How much of a line is kept."""

_END: Final = re.compile(rb"[\r\n]+")
_PERCENT: Final = re.compile(r"(?P<number>(?:100|[0-9]{1,2})(?:\.[0-9]+)?)%\s*")


class ProgressLines:
    """Puts lines together from pieces and tells the progress in them.

    Args:
        prefix: of the lines that are progress; `None` for none of them.
        ctx: the task whose progress it is.
    """

    def __init__(self, prefix: str | None, ctx: TaskContext) -> None:
        self._prefix = prefix
        self._ctx = ctx
        self._begun = b""

    def feed(self, piece: bytes) -> None:
        """The next piece of standard error."""
        if self._prefix is None or self._ctx.cancelled:
            return
        *lines, begun = _END.split(self._begun + piece)
        self._begun = begun[:LINE_BYTES]
        for line in reversed(lines):
            text = _printable(line[:LINE_BYTES].decode(errors="replace"))
            if text.startswith(self._prefix) and (message := text.removeprefix(self._prefix).strip()):
                self._tell(message)
                return

    def _tell(self, message: str) -> None:
        found = _PERCENT.match(message)
        percent = min(float(found["number"]), 100.0) if found else None
        self._ctx.progress_nowait(percent, message[found.end() :] or None if found else message)


def _printable(text: str) -> str:
    """Without NUL, which the protocol does not allow."""
    return text.replace("\0", "�")
