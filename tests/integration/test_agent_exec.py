"""Runs of real commands: what they are given, where they work, what they tell, and what is left of them."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import structlog
from tests.support.agent_side import WITHIN_S, AgentSide
from tests.support.processes import Watched

from callboard.agents import ExecAgent, TaskFailed
from callboard.agents.command import Command
from callboard.agents.testing import TASK_ID, run_handler
from callboard.agents.workdir import _unlock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from callboard.bus.embedded import EmbeddedNats

pytestmark = pytest.mark.anyio

TELL_ALL = 'import json, os, sys; print(json.dumps([sys.argv[1:], sys.stdin.read(), os.environ.get("V"), os.getcwd()]))'


@pytest.fixture(autouse=True)
def temporary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where working directories are made."""
    directory = tmp_path / "temporary"
    directory.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(directory))
    return directory


def entries(directory: Path) -> list[str]:
    return [str(path) for path in directory.iterdir()]


async def test_a_command_is_called_with_what_the_templates_make() -> None:
    command = Command(
        argv=(sys.executable, "-c", TELL_ALL, "--path={payload.path}", "$(id) {payload.path}"),
        stdin="Look at {payload.path}.",
        env={"V": "{task_id}/{attempt}"},
        output="json",
    )
    hostile = "a b'; touch x; $(id) `id` {task_id} \" \\ \n ü"
    run = await run_handler(command, {"path": hostile})
    expected = [f"--path={hostile}", f"$(id) {hostile}"]
    assert run.result == [expected, f"Look at {hostile}.", f"{TASK_ID}/1", str(Path.cwd())]


async def test_an_empty_input_is_empty() -> None:
    assert (await run_handler(Command(argv=("cat",), stdin=""), "payload")).result == ""


async def test_arguments_that_the_system_does_not_take_are_no_crash() -> None:
    with pytest.raises(TaskFailed) as failed:
        await run_handler(Command(argv=("ls", "--", "{payload}")), "a\0b")
    assert failed.value.error.type == "invalid_payload"


async def test_each_run_has_a_directory_of_its_own_that_is_gone_afterwards(temporary: Path) -> None:
    command = Command(
        argv=("sh", "-c", "pwd; ls -A; stat -c %a .; echo x > file; mkdir sub; ln -s / root"), workdir=True
    )
    results = [(await run_handler(command)).result.split() for _ in range(2)]
    for directory, mode in results:
        assert Path(directory).parent == temporary
        assert mode == "700"
    assert results[0][0] != results[1][0]
    assert entries(temporary) == []


def test_what_locks_a_directory_is_undone_but_not_through_a_link(tmp_path: Path) -> None:
    # By its modes, since the user who runs this may be one whom no mode keeps from anything.
    outside, locked = tmp_path / "outside", tmp_path / "locked"
    outside.mkdir(mode=0o755)
    (locked / "a/b").mkdir(parents=True)
    (locked / "a/link").symlink_to(outside)
    for directory in (locked / "a/b", locked / "a", locked):
        directory.chmod(0)
    _unlock(str(locked))
    assert [path.stat().st_mode & 0o777 for path in (locked, locked / "a", locked / "a/b")] == [0o700] * 3
    assert outside.stat().st_mode & 0o777 == 0o755


async def test_a_failed_and_a_timed_out_run_leave_no_directory(temporary: Path) -> None:
    for command, kind in (
        (Command(argv=("sh", "-c", "touch x; exit 3"), workdir=True), "exit_status"),
        (Command(argv=("sleep", "1000"), workdir=True, timeout_s=0.2), "timeout"),
        (Command(argv=("ls", "--", "{payload.none}"), workdir=True), "invalid_payload"),
    ):
        with pytest.raises(TaskFailed) as failed:
            await run_handler(command)
        assert failed.value.error.type == kind
    assert entries(temporary) == []


async def test_a_directory_that_cannot_be_made_fails_the_attempt(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(temporary / "missing"))
    with pytest.raises(TaskFailed, match="cannot make a working directory") as failed:
        await run_handler(Command(argv=("ls",), workdir=True))
    assert failed.value.error.retryable is not False


async def test_a_directory_that_stays_is_told_of(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: str) -> None:
        raise OSError(5, "Input/output error", path)

    monkeypatch.setattr("shutil.rmtree", broken)
    with structlog.testing.capture_logs() as logs:
        assert (await run_handler(Command(argv=("echo", "done"), workdir=True))).result == "done\n"
    [left] = entries(temporary)
    assert [(entry["log_level"], entry["path"]) for entry in logs] == [("warning", left)]


async def test_lines_of_standard_error_are_progress_and_still_the_reason_of_a_failure() -> None:
    script = "import sys\nfor text in ('STEP 10% reading', 'noise', 'STEP writing'): print(text, file=sys.stderr)"
    run = await run_handler(Command(argv=(sys.executable, "-c", script), progress="STEP"))
    assert (run.progress[-1].percent, run.progress[-1].message) == (None, "writing")
    failing = Command(argv=("sh", "-c", "echo 40% why >&2; exit 1"), progress="")
    with pytest.raises(TaskFailed, match="ended with exit status 1: 40% why"):
        await run_handler(failing)


@pytest.fixture
async def side(nats_server: EmbeddedNats, request: pytest.FixtureRequest) -> AsyncIterator[AgentSide]:
    async with AgentSide(nats_server.url, request.node.name[:64]) as side:
        yield side


async def test_progress_goes_out_while_the_command_runs_and_a_cancel_leaves_nothing(
    side: AgentSide, nats_server: EmbeddedNats, temporary: Path
) -> None:
    fifo = temporary.parent / "fifo"
    os.mkfifo(fifo)
    script = 'echo "70% soon" >&2; echo $$ > "$1"; exec sleep 1000'
    agent = ExecAgent(["sh", "-c", script, "x", "{payload}"], side.agent_id, workdir=True, progress="")
    await agent.agent.start(nats_server.url)
    try:
        which = await side.accepted("any", str(fifo))
        told = await side.seen("progress")
        assert (told["task_id"], told["percent"], told["message"]) == (which, 70, "soon")
        async with asyncio.timeout(WITHIN_S):
            watched = Watched([int(await asyncio.to_thread(fifo.read_text))])
        assert len(entries(temporary)) == 1
        assert await side.tell("cancel", task_id=which, attempt=1) == {}
        await watched.gone()
    finally:
        await agent.agent.stop()
    assert entries(temporary) == []
    assert not side.requests["fail"]
