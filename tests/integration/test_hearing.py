"""The owner's own question, and what strangers put on its subject."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs
from tests.support.wire import publish, send_raw

from callboard.bus.connection import Bus, BusOptions
from callboard.orchestrator.hearing import Hearing
from callboard.orchestrator.trust import Trust

if TYPE_CHECKING:
    from callboard.bus.embedded import EmbeddedNats

pytestmark = pytest.mark.anyio


async def test_what_cannot_be_answered_is_no_error_of_ours(nats_server: EmbeddedNats) -> None:
    async with await Bus.connect(BusOptions(servers=(nats_server.url,))) as bus:
        hearing = Hearing(bus, Trust(lease_ms=10_000, began_s=0.0), lambda: None)
        await hearing.start()
        try:
            await bus.flush()
            with capture_logs() as logs:
                subject = hearing._subject.encode()
                await send_raw(nats_server.url, publish(subject), publish(subject, reply=b"no\x0bsubject"))
                await bus.flush()
            await bus.request(hearing._subject, b"", timeout_s=5)
        finally:
            await hearing.stop()
    assert [line for line in logs if line["log_level"] != "debug"] == []
