"""Asking who is there: `$SRV.INFO` and `$SRV.PING` of the service that all agents share (section 4)."""

import asyncio
from contextlib import suppress
from typing import Final

from callboard.agents.synadia.wire import SERVICE, MalformedError, ServiceInfo, read_info
from callboard.bus.connection import Bus, BusMessage
from callboard.schemas.errors import OrchestratorError

STALL_S: Final = 0.75
"""Nobody answers any more when nobody has for so long; enough for a round trip around the world."""
LONGEST_S: Final = 2.0


async def all_there(bus: Bus) -> list[ServiceInfo]:
    """The records of all instances that answer.

    Raises:
        OrchestratorError: nobody could be asked.
    """
    answers: asyncio.Queue[BusMessage] = asyncio.Queue()
    inbox = bus.new_inbox()
    found: list[ServiceInfo] = []
    subscription = await bus.subscribe(inbox, answers.put_nowait)
    try:
        bus.send(f"$SRV.INFO.{SERVICE}", b"", reply=inbox)
        with suppress(TimeoutError):
            async with asyncio.timeout(LONGEST_S):
                while True:
                    async with asyncio.timeout(STALL_S):
                        message = await answers.get()
                    if message.status is not None:
                        break
                    with suppress(MalformedError):
                        found.append(read_info(message.data))
    finally:
        await subscription.unsubscribe()
    return [info for info in found if info.name == SERVICE]


async def one(bus: Bus, instance_id: str) -> ServiceInfo | None:
    """The record of an instance; `None` when it does not answer, or not as one of the service."""
    with suppress(OrchestratorError, MalformedError):
        answer = await bus.request(f"$SRV.INFO.{SERVICE}.{instance_id}", b"", timeout_s=LONGEST_S)
        info = read_info(answer.data)
        return info if info.name == SERVICE and info.id == instance_id else None
    return None


async def lives(bus: Bus, instance_id: str) -> bool:
    """Whether an instance answers."""
    try:
        await bus.request(f"$SRV.PING.{SERVICE}.{instance_id}", b"", timeout_s=LONGEST_S)
    except OrchestratorError:
        return False
    return True
