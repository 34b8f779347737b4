"""Submissions whose key another task has: whatever becomes of the read, each is answered."""

import asyncio
from typing import Any, cast

import pytest

from callboard.orchestrator.repeats import Repeat, answer_repeats
from callboard.orchestrator.store.memory import MemoryStore
from callboard.orchestrator.store.port import StoreUnavailableError
from callboard.orchestrator.tickets import TicketBook
from callboard.schemas.errors import OrchestratorError


class Asked:
    """Who asked, and what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def answer(self, message: object) -> None:
        self.told.append(type(message).__name__)

    def refuse(self, error: OrchestratorError) -> None:
        self.told.append(error.code)


class Failing:
    """A store whose reading fails."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def key_holders(self, *_: object) -> dict[str, Any]:
        raise self._error


@pytest.mark.parametrize("error", [StoreUnavailableError("away", handed_over=False), RuntimeError("a bug")])
def test_a_read_that_fails_leaves_nobody_waiting(error: Exception) -> None:
    book, asked = TicketBook(), [Asked(), Asked()]
    repeats = [Repeat(book.open(each), "client", "k", b"") for each in asked]
    work = answer_repeats(cast("MemoryStore", Failing(error)), "default", repeats)
    if isinstance(error, RuntimeError):
        with pytest.raises(RuntimeError):
            asyncio.run(work)
    else:
        asyncio.run(work)
    assert [each.told for each in asked] == [["outcome_unknown"], ["outcome_unknown"]]
    assert len(book) == 0
