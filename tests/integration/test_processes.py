"""Child processes of the event loop, with real ones; learned of by the kernel's descriptor, and by a thread."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from callboard.bus.processes import LOST, Process

pytestmark = pytest.mark.anyio

SH = "/bin/sh"


@pytest.fixture(autouse=True, params=["descriptor", "thread"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "thread":
        monkeypatch.delattr(os, "pidfd_open", raising=False)
    elif sys.platform != "linux":
        pytest.skip("only Linux has descriptors of processes")


def start(script: str, *, stdin: int = subprocess.DEVNULL, stdout: int = subprocess.DEVNULL) -> Process:
    return Process([SH, "-c", script], env={"PATH": os.defpath}, stdin=stdin, stdout=stdout, stderr=stdout)


def descriptors() -> set[str]:
    return {path.name for path in Path("/dev/fd").iterdir()}


async def test_all_who_wait_learn_the_status() -> None:
    process = start("exit 3")
    assert set(await asyncio.gather(process.wait(), process.wait())) == {3}
    assert process.returncode == 3
    assert await process.wait() == 3


async def test_who_stops_waiting_takes_nothing_from_the_others() -> None:
    read_end, write_end = os.pipe()
    process = start("read -r _; exit 4", stdin=read_end)
    os.close(read_end)
    impatient = asyncio.ensure_future(process.wait())
    patient = asyncio.ensure_future(process.wait())
    await asyncio.sleep(0)
    impatient.cancel()
    os.close(write_end)
    assert await patient == 4
    assert impatient.cancelled()


async def test_a_signal_shows_in_the_status_and_harms_nobody_later() -> None:
    process = start("kill -STOP $$")
    process.send_signal(signal.SIGKILL)
    assert await process.wait() == -signal.SIGKILL
    process.send_signal(signal.SIGTERM)


async def test_a_status_that_somebody_else_took_is_no_success() -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel takes it
    try:
        assert await start("exit 0").wait() == LOST
    finally:
        signal.signal(signal.SIGCHLD, before)


async def test_it_leads_a_session_of_its_own_and_leaves_no_descriptor() -> None:
    before = descriptors()
    read_end, write_end = os.pipe()
    process = start("read -r _", stdin=read_end)
    os.close(read_end)
    assert os.getsid(process.pid) == os.getpgid(process.pid) == process.pid
    os.close(write_end)
    await process.wait()
    after = descriptors()
    assert after <= before


async def test_what_cannot_be_started_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Process([str(tmp_path / "none")], env={}, stdin=subprocess.DEVNULL, stdout=2, stderr=2)
