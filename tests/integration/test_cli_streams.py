"""What may happen to a command: streams that are closed or broken, an interrupt, arguments that are no text."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.support.command_line import CommandLine, Finished, assert_one_line_of_error
from tests.support.scripted_orchestrator import TASK_ID, ScriptedOrchestrator, task

from callboard.cli.exits import ExitStatus

if TYPE_CHECKING:
    from collections.abc import Mapping

pytestmark = pytest.mark.anyio

SUBMITTED = {"task_id": TASK_ID, "state": "queued", "created": True, "satisfiable": False}
NOT_UTF_8 = b"a\xff"


async def in_a_shell(callboard: CommandLine, command: str) -> Finished:
    """Run `callboard` by a shell, which can do to its streams what Python's own calls cannot."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", command,
        env={**callboard.env, "HOME": str(callboard.home), "PATH": path},
        cwd=callboard.home, stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert process.returncode is not None
    return Finished(process.returncode, out.decode(), err.decode())


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (f"callboard get {TASK_ID} --json >&-", 0),
        (f"callboard get {TASK_ID} <&-", 0),
        (f"callboard get {TASK_ID} 2>&-", 0),
        ("callboard --help >&-", 0),
        ("callboard submit t >&-", 0),
        ("callboard submit t 2>&-", 0),
        ("callboard submit t <&- >&- 2>&-", 0),
        ("callboard nonsense >&- 2>&-", 2),
    ],
)
async def test_a_stream_that_is_closed_is_as_the_null_device(
    orchestrator: ScriptedOrchestrator, callboard: CommandLine, command: str, status: int
) -> None:
    orchestrator.on("tasks.submit", SUBMITTED).on("tasks.get", task())
    done = await in_a_shell(callboard, command)
    assert done.status == status
    assert "Traceback" not in done.err


async def test_closed_standard_input_is_empty_input(callboard: CommandLine) -> None:
    assert_one_line_of_error(await in_a_shell(callboard, "callboard submit t - <&-"), 2, "standard input is not JSON")


async def test_children_of_a_command_with_closed_streams_have_none_of_its_sockets_for_theirs(
    callboard: CommandLine,
) -> None:
    script = (
        "import subprocess; from callboard.cli.streams import prepare_streams; prepare_streams();"
        "subprocess.run(['sh', '-c', 'readlink /proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2 >links'], check=True)"
    )
    done = await in_a_shell(callboard, f'{sys.executable} -c "{script}" <&- >&- 2>&-')
    links = (callboard.home / "links").read_text().split()
    assert (done.status, links[0], links[2]) == (0, "/dev/null", "/dev/null")


@pytest.mark.parametrize("stderr", ["> >(true)", ">/dev/full"])
async def test_a_note_that_nobody_hears_costs_neither_the_answer_nor_the_status(
    orchestrator: ScriptedOrchestrator, callboard: CommandLine, stderr: str
) -> None:
    orchestrator.on("tasks.submit", SUBMITTED)
    assert await in_a_shell(callboard, f"callboard submit t 2{stderr}") == Finished(0, f"{TASK_ID}\n", "")


@pytest.mark.parametrize("command", ["--help", "schema asyncapi", f"get {TASK_ID} --json", "config"])
async def test_a_reader_that_has_gone_before_the_first_line_is_quiet(
    orchestrator: ScriptedOrchestrator, callboard: CommandLine, command: str
) -> None:
    orchestrator.on("tasks.get", task())
    # The pipe's reader is closed before the command begins: nothing is left to chance.
    script = f"exec 3> >(:); wait $!; callboard {command} >&3"
    assert await in_a_shell(callboard, script) == Finished(ExitStatus.BROKEN_PIPE, "", "")


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["submit", NOT_UTF_8], 3),
        (["submit", "t", "--description", NOT_UTF_8], 3),
        (["get", NOT_UTF_8], 2),
        (["list", "--type", NOT_UTF_8], 3),
        (["submit", "t", NOT_UTF_8, "--text"], 2),
        (["config", "--mode", NOT_UTF_8], 2),
        ([NOT_UTF_8], 2),
    ],
)
async def test_an_argument_that_is_not_utf_8_is_one_line(
    orchestrator: ScriptedOrchestrator, callboard: CommandLine, arguments: list[str | bytes], status: int
) -> None:
    orchestrator.on("tasks.get", task())
    done = await callboard(*map(os.fsdecode, arguments))
    assert_one_line_of_error(done, status)
    assert "UTF-8" in done.err or "\\udcff" in done.err


async def test_text_that_the_locale_cannot_write_is_escaped(
    orchestrator: ScriptedOrchestrator, callboard: CommandLine
) -> None:
    orchestrator.on("tasks.get", task(description="snow \u2603"))
    done = await CommandLine(callboard.home, {**callboard.env, "PYTHONIOENCODING": "latin-1"})("get", TASK_ID)
    assert (done.status, done.err) == (0, "")
    assert "snow \\u2603" in done.out


_STOPS_AT_IMPORT = """\
import os, signal, sys
class Interrupter:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupter())
sys.argv[1:] = ['version']
from callboard.cli.__main__ import main
main()
"""


@pytest.mark.parametrize("module", ["cyclopts", "msgspec", "callboard.cli.main", "callboard.cli.service"])
async def test_an_interrupt_while_modules_load_is_130_without_a_word(callboard: CommandLine, module: str) -> None:
    done = await interrupted_at(module, callboard.env)
    assert done == Finished(ExitStatus.INTERRUPTED, "", "")


async def interrupted_at(module: str, env: Mapping[str, str]) -> Finished:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _STOPS_AT_IMPORT.format(module=module),
        env={"PATH": os.environ["PATH"], **env}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert process.returncode is not None
    return Finished(process.returncode, out.decode(), err.decode())


async def test_an_interrupt_that_is_ignored_stays_ignored(callboard: CommandLine) -> None:
    """As of a command that a script has put into the background."""
    ignoring = f"trap '' INT; {sys.executable} -c \"{_STOPS_AT_IMPORT.format(module='cyclopts')}\""
    done = await in_a_shell(callboard, ignoring)
    assert (done.status, done.err) == (0, "")
