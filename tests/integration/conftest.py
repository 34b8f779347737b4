"""The command line in a process of its own, and an orchestrator for it that plays a script."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.support.command_line import CommandLine
from tests.support.scripted_orchestrator import ScriptedOrchestrator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from callboard.bus.embedded import EmbeddedNats


@pytest.fixture
async def orchestrator(nats_server: EmbeddedNats) -> AsyncIterator[ScriptedOrchestrator]:
    async with ScriptedOrchestrator(nats_server.url) as scripted:
        yield scripted


@pytest.fixture
def callboard(nats_server: EmbeddedNats, tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path, {"NATS_URL": nats_server.url})


@pytest.fixture
def elsewhere(tmp_path: Path) -> CommandLine:
    """A command line to which nobody gave an address."""
    return CommandLine(tmp_path, {})
