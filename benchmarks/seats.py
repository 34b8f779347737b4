"""A driver process that takes orders: one JSON object a line in, one out. Its end of it is `compare.drivers.seat`.

It ends when its standard input does, so also when we die.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

LONGEST_LINE: Final = 64 * 1024 * 1024
"""Bytes: an answer lists every latency."""
ENDS_WITHIN_S: Final = 10.0


class SeatError(Exception):
    """A driver that failed or did not answer: why."""


class Seat:
    """A running driver."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    async def order(self, order: str, *, within_s: float, **arguments: object) -> dict[str, Any]:
        """Carry out an order.

        Raises:
            SeatError: it failed, or there was no answer within `within_s`; the seat is of no use then.
        """
        assert self._process.stdin is not None  # noqa: S101 - both are pipes
        assert self._process.stdout is not None  # noqa: S101 - both are pipes
        try:
            self._process.stdin.write(json.dumps({"order": order, **arguments}).encode() + b"\n")
            async with asyncio.timeout(within_s):
                line = await self._process.stdout.readline()
        except TimeoutError:
            raise SeatError(f"{order}: no answer within {within_s:g} s") from None
        except OSError as error:
            raise SeatError(f"{order}: {error}") from None
        if not line:
            raise SeatError(f"{order}: the client ended: {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise SeatError(f"{order}: {answer['error']}")
        return answer

    def _last_words(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else "it wrote nothing"

    async def _end(self) -> None:
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        self._process.stdin.close()
        try:
            async with asyncio.timeout(ENDS_WITHIN_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


@contextlib.asynccontextmanager
async def seated(command: Sequence[str | Path], *, env: Mapping[str, str], cwd: Path, log: Path) -> AsyncIterator[Seat]:
    """A driver for as long as the block runs."""
    with log.open("ab") as errors:
        process = await asyncio.create_subprocess_exec(
            *map(str, command),
            env=dict(env),
            cwd=cwd,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            limit=LONGEST_LINE,
        )
    seat = Seat(process, log)
    try:
        yield seat
    finally:
        await seat._end()  # noqa: SLF001 - only this block ends it
