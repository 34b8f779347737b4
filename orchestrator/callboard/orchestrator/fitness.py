"""Whether this process can serve: once something says that it cannot, it never can again."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from callboard.schemas.errors import ConfigurationError


class Fitness:
    """Fit, until `lose`."""

    def __init__(self) -> None:
        self._lost = asyncio.Event()
        self._why: ConfigurationError | None = None

    def lose(self, why: ConfigurationError) -> None:
        """It can serve no more; the first reason counts."""
        self._why = self._why or why
        self._lost.set()

    async def until_lost(self) -> ConfigurationError:
        """Wait until it can serve no more; and why."""
        await self._lost.wait()
        assert self._why is not None  # noqa: S101 - set before the event
        return self._why

    async def unless_lost(self, waiting: Coroutine[Any, Any, None]) -> None:
        """Wait for something that another might bring about, too, once we cannot serve.

        Raises:
            ConfigurationError: we cannot; or what `waiting` raises.
        """
        waited, lost = asyncio.create_task(waiting), asyncio.create_task(self.until_lost())
        try:
            await asyncio.wait((waited, lost), return_when=asyncio.FIRST_COMPLETED)
            if lost.done():
                raise lost.result()
            waited.result()
        finally:
            waited.cancel()
            lost.cancel()
            await asyncio.gather(waited, lost, return_exceptions=True)
