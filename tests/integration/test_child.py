"""Child processes, the directory lock and the supervisor, with real processes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import TYPE_CHECKING

import pytest
from tests.support.processes import Watched

from callboard.bus import child as child_module
from callboard.bus import supervise
from callboard.bus.child import Child, EmbeddedServerError
from callboard.bus.embedded import EmbeddedNats
from callboard.bus.guard import CANNOT_RUN
from callboard.bus.lock import DirectoryLock
from callboard.bus.supervise import Restart, Supervisor

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

pytestmark = pytest.mark.anyio

STUBBORN = """
import os, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
grandchild = os.fork()
if grandchild:
    print(grandchild, flush=True)
signal.pause()
"""


async def spawn(directory: Path, *command: str, env: Mapping[str, str] | None = None, grace_s: float = 10.0) -> Child:
    log = directory / "log"
    return await Child.spawn(
        command, name="test", log=log, cwd=directory, env=env or {"PATH": os.defpath}, grace_s=grace_s
    )


async def first_line(child: Child) -> str:
    async def written() -> bool:
        return child.log.read_text().endswith("\n")

    await child.wait_ready(written, timeout_s=10)
    return child.log.read_text().strip()


async def test_stop_is_gentle_first(tmp_path: Path) -> None:
    child = await spawn(tmp_path, sys.executable, "-c", "import signal; print('up', flush=True); signal.pause()")
    assert await first_line(child) == "up"
    assert os.getpgid(child.pid) == os.getsid(child.pid) == child.pid
    await child.stop()
    await child.stop()
    assert child.returncode == -signal.SIGTERM


async def test_stop_kills_the_whole_group_after_the_grace(tmp_path: Path) -> None:
    child = await spawn(tmp_path, sys.executable, "-c", STUBBORN, grace_s=0.1)
    group = Watched([child.pid, int(await first_line(child))])
    await child.stop()
    assert child.returncode == -signal.SIGKILL
    await group.gone()


@pytest.mark.parametrize("death_notice", ["signal", "pipe"])
@pytest.mark.parametrize("env", [{"A": "ü=1"}, {"LC_CTYPE": "C", "PATH": "/bin"}, {"LANG": "C"}])
async def test_the_environment_is_exactly_the_one_given(
    tmp_path: Path, env: dict[str, str], death_notice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_module, "DEATH_NOTICE", death_notice)
    child = await spawn(tmp_path, "/usr/bin/env", "-0", env=env)
    assert await child.wait() == 0
    seen = dict(entry.split("=", 1) for entry in child.log.read_text().rstrip("\0").split("\0"))
    assert seen == env


@pytest.mark.parametrize("death_notice", ["signal", "pipe"])
async def test_exit_codes_and_signals_come_through(
    tmp_path: Path, death_notice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_module, "DEATH_NOTICE", death_notice)
    assert await (await spawn(tmp_path, "/bin/sh", "-c", "exit 7")).wait() == 7
    assert await (await spawn(tmp_path, "/bin/sh", "-c", "kill -TERM $$")).wait() == -signal.SIGTERM
    # SIGPIPE must not be inherited as ignored, which is how Python runs.
    assert await (await spawn(tmp_path, "/bin/sh", "-c", "kill -PIPE $$")).wait() == -signal.SIGPIPE


async def test_a_command_that_cannot_run_says_why(tmp_path: Path) -> None:
    child = await spawn(tmp_path, str(tmp_path / "nothing"))
    assert await child.wait() == CANNOT_RUN
    assert "No such file or directory" in child.log_tail()
    with pytest.raises(EmbeddedServerError, match="could not be started"):
        await spawn(tmp_path / "nowhere", "/bin/true")


async def test_a_large_log_is_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "LOG_LIMIT", 10)
    (tmp_path / "log").write_text("an older, longer log\n")
    child = await spawn(tmp_path, "/bin/echo", "new")
    await child.wait()
    assert (tmp_path / "log").read_text() == "new\n"
    assert (tmp_path / "log.old").read_text() == "an older, longer log\n"


async def test_a_lock_has_one_owner_and_names_it(tmp_path: Path) -> None:
    first, second = DirectoryLock(tmp_path / "lock"), DirectoryLock(tmp_path / "lock")
    await first.acquire()
    await first.acquire()
    with pytest.raises(EmbeddedServerError, match=f"in use by process {os.getpid()}:"):
        await second.acquire()
    first.release()
    first.release()
    await second.acquire()
    assert second.held
    second.release()


async def test_a_lock_outlives_its_owner_in_a_child_and_ends_with_it(tmp_path: Path) -> None:
    lock = DirectoryLock(tmp_path / "lock")
    await lock.acquire()
    child = await Child.spawn(
        ["/bin/sleep", "60"], name="sleep", log=tmp_path / "log", cwd=tmp_path, env={}, pass_fds=[lock.fileno()]
    )
    lock.release()
    gone = await spawn(tmp_path, "/bin/true")
    await gone.wait()
    (tmp_path / "lock").write_text(f"{gone.pid}\n")
    heir = DirectoryLock(tmp_path / "lock")
    with pytest.raises(EmbeddedServerError, match=f"after its owner, process {gone.pid}, ended"):
        await heir.acquire(wait_s=0.1)
    waiting = asyncio.create_task(heir.acquire())
    await child.stop()
    await waiting
    assert heir.held
    heir.release()


async def test_a_supervisor_brings_a_server_back_and_reports(tmp_path: Path) -> None:
    reports: asyncio.Queue[Restart] = asyncio.Queue()
    server = EmbeddedNats(tmp_path, token=None)
    supervisor = Supervisor(server, reports.put_nowait)
    async with supervisor, asyncio.timeout(30):
        await supervisor.start()
        port = server.port
        for attempt in (1, 2):
            await server.kill()
            assert await reports.get() == Restart("nats-server", -signal.SIGKILL, attempt, None)
            assert server.port == port
        running = Watched([server.pid])
    await supervisor.stop()
    await running.gone()
    assert reports.empty()


async def test_a_supervisor_reports_failures_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "MAX_BACKOFF_S", supervise.FIRST_BACKOFF_S)
    reports: asyncio.Queue[Restart] = asyncio.Queue()
    server = EmbeddedNats(tmp_path, token=None)
    async with Supervisor(server, reports.put_nowait), asyncio.timeout(30):
        await server.kill()
        async with await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", server.port):
            report = await reports.get()
            assert report.attempt == 1
            assert "address already in use" in str(report.error)
        while report.error is not None:
            report = await reports.get()
        assert report.attempt > 1
        assert await server_answers(server.port)


async def test_a_callback_that_raises_is_not_lost(tmp_path: Path) -> None:
    called = asyncio.Event()

    def broken(_restart: Restart) -> None:
        called.set()
        raise ValueError("broken callback")

    server = EmbeddedNats(tmp_path, token=None)
    supervisor = Supervisor(server, broken)
    await supervisor.start()
    running = Watched([server.pid])
    await server.kill()
    async with asyncio.timeout(30):
        await called.wait()
    with pytest.raises(ValueError, match="broken callback"):
        await supervisor.stop()
    await running.gone()
    with pytest.raises(ConnectionRefusedError):
        await server_answers(server.port)


async def server_answers(port: int) -> bool:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        return (await reader.readline()).startswith(b"INFO ")
    finally:
        writer.close()
        await writer.wait_closed()
