"""What commands print: tables and fields for people, JSON for programs.

Rules: colours only on a terminal; what came from tasks and agents is shown as plain text, so that no
control sequence of theirs reaches the terminal; every print is flushed, so that a pipe sees it at once.
"""

import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Final

import msgspec

from callboard.cli.streams import write_to_stderr

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

_UNBROKEN: Final = 10_000
"""Characters in a line that nothing is cut or wrapped to fit into."""
_NARROWEST: Final = 80
"""Characters in a line that fields are folded to at least: the longest id has room in them."""
_NO_VALUE: Final = "-"
_COLOURS: Final = {
    "succeeded": "green",
    "online": "green",
    "ok": "green",
    "running": "cyan",
    "assigned": "cyan",
    "waiting_input": "magenta",
    "failed": "red",
    "quarantined": "red",
    "expired": "red",
    "offline": "red",
    "down": "red",
    "cancelled": "yellow",
    "deferred": "yellow",
    "suspect": "yellow",
    "draining": "yellow",
}


def print_line(text: str) -> None:
    """One line on standard output."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def print_json(value: object) -> None:
    """One JSON document on one line of standard output."""
    print_line(msgspec.json.encode(value).decode())


def print_note(text: str) -> None:
    """One line beside the answer, on standard error."""
    write_to_stderr(f"callboard: {text}")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, header: bool = True) -> None:
    """A table, one line a row: an id that is cut cannot be copied, so a narrow terminal wraps lines instead."""
    from rich.table import Table  # noqa: PLC0415 - rich is not needed for JSON

    table = Table(box=None, pad_edge=False, show_header=header, header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=True)
    for row in rows:
        table.add_row(*map(_styled, row))
    _print(table, width=_UNBROKEN)


def print_fields(fields: Iterable[tuple[str, object]]) -> None:
    """Names and values, one for each line; a value that is `None` is left out."""
    from rich.table import Table  # noqa: PLC0415 - rich is not needed for JSON

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in fields:
        if value is not None:
            table.add_row(name, _styled(value))
    _print(table, width=max(get_terminal_size().columns, _NARROWEST) if sys.stdout.isatty() else _UNBROKEN)


def plain(value: object) -> str:
    """A value as text without control characters; instants in local time, lists joined."""
    if value is None or value in ("", [], {}):
        return _NO_VALUE
    if isinstance(value, datetime):
        return f"{value.astimezone():%Y-%m-%d %H:%M:%S}"
    if isinstance(value, dict):
        return plain(", ".join(f"{name}={item}" for name, item in value.items()))
    if isinstance(value, list | tuple):
        return plain(", ".join(map(str, value)))
    text = " ".join(str(value).split())
    return text if text.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in text)


def ago(instant: datetime | None) -> str | None:
    """How long ago an instant was, e.g. `3.2s ago`."""
    return None if instant is None else f"{duration((datetime.now(UTC) - instant).total_seconds() * 1000)} ago"


def duration(milliseconds: float) -> str:
    """A duration for people: `350ms`, `2.4s`, `5m12s`, `3h20m`, `2d4h`."""
    seconds = max(0.0, milliseconds) / 1000
    if seconds < 1:
        return f"{max(0.0, milliseconds):.0f}ms"
    if seconds < 60:  # noqa: PLR2004 - a minute
        return f"{seconds:.1f}s"
    whole = int(seconds)
    for size, unit, smaller, smaller_unit in ((86_400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // smaller}{smaller_unit}"
    return f"{whole}s"


def _styled(value: object) -> "Text":
    from rich.text import Text  # noqa: PLC0415 - rich is not needed for JSON

    text = plain(value)
    # Text, not markup: "[bold]" in a description is not an instruction.
    return Text(text, style=_COLOURS.get(text, ""))


def _print(table: "Table", *, width: int) -> None:
    """Print without the blanks that fill up the last column: they would wrap too."""
    from rich.console import Console  # noqa: PLC0415 - rich is not needed for JSON

    # Without a height rich takes every dumb terminal for one of 80 columns, whatever the width, and cuts ids.
    console = Console(width=width, height=1, highlight=False)
    with console.capture() as drawn:
        console.print(table)
    for line in drawn.get().splitlines():
        print_line(line.rstrip())
