"""Tables: for people on a terminal, and as Markdown for the documentation; from the same rows."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from rich.console import Console
from rich.table import Table

Rows = tuple[str, Sequence[str], Sequence[Sequence[str]]]
"""Title, head and rows."""

WIDTH_IN_A_FILE: Final = 160


def show(tables: Iterable[Rows]) -> None:
    """On standard output."""
    console = Console(width=None if sys.stdout.isatty() else WIDTH_IN_A_FILE)
    for title, head, rows in tables:
        table = Table(*head, title=title, title_justify="left")
        for row in rows:
            table.add_row(*row)
        console.print(table)


def markdown(tables: Iterable[Rows]) -> str:
    """For the documentation."""
    return "\n\n".join(f"**{title}**\n\n{_pipes(head, rows)}" for title, head, rows in tables)


def machine_row(machine: Mapping[str, str]) -> Rows:
    """What it was measured on."""
    return "Machine", ["", ""], [[name, value] for name, value in machine.items()]


def _pipes(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
