"""Running a service until it is told to end: drained by the first signal, stopped by the second."""

import asyncio
from collections.abc import Awaitable, Callable

from callboard.agents.signals import ending_on_signals

Step = Callable[[], Awaitable[None]]


async def run_until_signalled(start: Step, *, drain: Step, stop: Step) -> None:
    """`start`, serve until SIGTERM or SIGINT, `drain`, `stop`; a second signal skips what is left of the drain.

    Raises:
        Exception: what `start` raises.
    """
    loop = asyncio.get_running_loop()
    first, second = asyncio.Event(), asyncio.Event()

    def on_first() -> None:
        loop.call_soon_threadsafe(first.set)

    def on_second() -> None:
        loop.call_soon_threadsafe(second.set)

    with ending_on_signals(on_first, on_second):
        try:
            # NATS may be away: whoever waits for it must be able to give up.
            await _unless(first, start)
            await first.wait()
            await _unless(second, drain)
        finally:
            await stop()


async def _unless(ended: asyncio.Event, step: Step) -> None:
    """Do it, but no longer than until then."""
    doing, waiting = asyncio.ensure_future(step()), asyncio.ensure_future(ended.wait())
    try:
        await asyncio.wait([doing, waiting], return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            doing.result()
    finally:
        for each in (doing, waiting):
            each.cancel()
        await asyncio.gather(doing, waiting, return_exceptions=True)
