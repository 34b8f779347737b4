"""What is seen while it runs: bars on a terminal, else a plain line every few seconds; news between them."""

import asyncio
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Final, Self

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from callboard.demo.jobs import Kind

LINE_EVERY_S: Final = 2.0
_PIPE_WIDTH: Final = 120


class Live:
    """The screen of one demonstration; the bars are there within its block.

    Args:
        totals: How many tasks of each kind there are.
    """

    def __init__(self, totals: Mapping[Kind, int]) -> None:
        self._started_s = time.monotonic()
        self._totals = totals
        self._done = dict.fromkeys(totals, 0)
        self._console = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False)
        self._bars = Progress(
            TextColumn("{task.description:>10}"),
            BarColumn(),
            MofNCompleteColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._bar_of = {kind: self._bars.add_task(kind, total=total) for kind, total in totals.items()}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def say(self, news: str) -> None:
        """A line that stays, with the seconds since the start."""
        # Text, not markup: a bracket in a name is no instruction. A path stays in one piece.
        self._console.print(Text(f"{time.monotonic() - self._started_s:5.1f} s  {news}"), soft_wrap=True)

    def show(self, table: RenderableType) -> None:
        """A table."""
        self._console.print(table)

    def advance(self, kind: Kind) -> None:
        """One more task of this kind is finished."""
        self._done[kind] += 1
        self._bars.advance(self._bar_of[kind])

    async def tell_regularly(self) -> None:
        """Print how far it is every few seconds, for ever, where there are no bars."""
        while not self._console.is_terminal:
            await asyncio.sleep(LINE_EVERY_S)
            self.say(", ".join(f"{kind} {self._done[kind]}/{total}" for kind, total in self._totals.items()))
