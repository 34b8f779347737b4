"""When a replica counts as started: once somebody serves its pools, however long a deep queue takes to load."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from callboard.orchestrator.service import _until_owned
from callboard.schemas.errors import OutcomeUnknownError, UnavailableError

if TYPE_CHECKING:
    from callboard.bus.client import Client
    from callboard.orchestrator.keeper import PoolKeeper

pytestmark = pytest.mark.anyio


class Asking:
    """A client whose pool answers `status` after so many silences."""

    def __init__(self, *silences: Exception) -> None:
        self.silences = list(silences)

    async def status(self, *, timeout_s: float) -> None:
        assert timeout_s > 0
        if self.silences:
            raise self.silences.pop(0)


class Standing:
    """A keeper, as far as it is asked here."""

    def __init__(self, *, is_loading: bool = False, is_held_elsewhere: bool = False) -> None:
        self.is_loading = is_loading
        self.is_held_elsewhere = is_held_elsewhere


async def wait(asking: Asking, standing: Standing) -> None:
    await _until_owned(cast("Client", asking), cast("PoolKeeper", standing))


@pytest.mark.parametrize("standing", [Standing(is_loading=True), Standing(is_held_elsewhere=True)])
async def test_it_waits_as_long_as_somebody_is_about_to_serve(standing: Standing) -> None:
    asking = Asking(UnavailableError(), OutcomeUnknownError(), UnavailableError())
    await wait(asking, standing)
    assert asking.silences == []


async def test_it_gives_up_when_nobody_is() -> None:
    with pytest.raises(UnavailableError):
        await wait(Asking(UnavailableError()), Standing())
