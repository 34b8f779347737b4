"""One run of a command as a handler of tasks; the rules stand in `callboard.agents.exec`."""

import asyncio
import os
import shutil
import signal
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from callboard.agents.context import TaskContext
from callboard.agents.errors import TaskFailed
from callboard.agents.groups import GROUPS, end_group
from callboard.agents.pipes import InputPipe, OutputPipe, OutputTooLargeError
from callboard.schemas.errors import ConfigurationError
from callboard.schemas.limits import RESULT_BYTES

STDERR_TAIL_BYTES: Final = 1_500
DRAIN_S: Final = 5.0
"""How long to wait for the end of output once the group is dead: only a daemon that took a pipe with it holds it."""

_GATE: Final = ("/bin/sh", "-c", 'read -r _ && exec "$@"', "callboard")
"""The command begins with the first line of its input, written once its group is on the list of those that die with us.
Were we killed before, the line never comes. A shell reads no further than the line, so the rest is the command's."""

Output = Literal["text", "json"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command as a handler: `agent.task("lint")(Command(argv=("ruff", "check", "-")))`.

    Attributes:
        argv: the program and its arguments; no shell.
        output: what standard output is.
        timeout_s: how long one run may take.
        grace_s: between SIGTERM and SIGKILL.
        max_output_bytes: of standard output.

    Raises:
        ConfigurationError: there is no such program.
    """

    argv: tuple[str, ...]
    output: Output = "text"
    timeout_s: float | None = None
    grace_s: float = 5.0
    max_output_bytes: int = RESULT_BYTES

    def __post_init__(self) -> None:
        if not self.argv:
            raise ConfigurationError("no command is given")
        if shutil.which(self.argv[0]) is None:
            raise ConfigurationError(f"no such command: {self.argv[0]!r}")

    async def __call__(self, ctx: TaskContext) -> Any:  # noqa: ANN401 - a result is any JSON value
        """Run it once.

        Raises:
            TaskFailed: of type `exit_status`, `signal`, `timeout`, `output_too_large`, `invalid_output` or
                `cannot_start`.
        """
        try:
            async with asyncio.timeout(self.timeout_s):
                stdout = await self._run(ctx)
        except TimeoutError:
            raise TaskFailed(f"{self.argv[0]} took longer than {self.timeout_s:g} s", type="timeout") from None
        except OutputTooLargeError:
            message = f"{self.argv[0]} wrote more than {self.max_output_bytes} bytes"
            raise TaskFailed(message, type="output_too_large", retryable=False) from None
        return self._result(stdout)

    async def _run(self, ctx: TaskContext) -> bytes:
        async with InputPipe() as stdin, OutputPipe() as stdout, OutputPipe() as stderr:
            try:
                process = await asyncio.create_subprocess_exec(
                    *_GATE,
                    *self.argv,
                    stdin=stdin.child_end,
                    stdout=stdout.child_end,
                    stderr=stderr.child_end,
                    env=_environment(ctx),
                    start_new_session=True,
                )
            except OSError as error:
                raise TaskFailed(f"cannot start {self.argv[0]}: {error}", type="cannot_start") from None
            GROUPS.add(process.pid)
            for pipe in (stdin, stdout, stderr):
                pipe.close_child_end()
            stdin.write(b"\n" + _input(ctx))
            return await self._follow(process, stdout, stderr)

    async def _follow(self, process: asyncio.subprocess.Process, stdout: OutputPipe, stderr: OutputPipe) -> bytes:
        """The output of a process that ends well; the group is dead when this returns or raises."""
        reading = asyncio.create_task(stdout.read(self.max_output_bytes))
        complaining = asyncio.create_task(stderr.read_tail(STDERR_TAIL_BYTES))
        waiting = asyncio.create_task(process.wait())
        tasks: list[asyncio.Task[Any]] = [reading, complaining, waiting]
        try:
            try:
                await asyncio.wait((reading, waiting), return_when=asyncio.FIRST_COMPLETED)
                if reading.done():
                    reading.result()
                status = await waiting
            finally:
                await end_group(process, self.grace_s)
            await asyncio.wait(tasks, timeout=DRAIN_S)
            if status != 0:
                raise _failure(self.argv[0], status, complaining.result() if complaining.done() else b"")
            if not reading.done():
                raise TaskFailed(f"{self.argv[0]} left a daemon that holds its output", type="invalid_output")
            return reading.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _result(self, stdout: bytes) -> Any:  # noqa: ANN401 - a result is any JSON value
        if self.output == "text":
            return stdout.decode(errors="replace")
        try:
            return msgspec.json.decode(stdout)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            message = f"the output of {self.argv[0]} is not JSON: {error}"
            raise TaskFailed(message, type="invalid_output", retryable=False) from None


def _input(ctx: TaskContext) -> bytes:
    payload = ctx.payload
    if payload is None:
        return b""
    return payload.encode() if isinstance(payload, str) else ctx.raw_payload


def _environment(ctx: TaskContext) -> dict[str, str]:
    task = {
        "CALLBOARD_TASK_ID": ctx.task_id,
        "CALLBOARD_ATTEMPT": str(ctx.attempt),
        "CALLBOARD_TASK_TYPE": ctx.type,
    }
    return {**os.environ, **task}


def _failure(program: str, status: int, stderr: bytes) -> TaskFailed:
    if status > 0:
        kind, what = "exit_status", f"ended with exit status {status}"
    else:
        kind, what = "signal", f"was ended by {_signal_name(-status)}"
    tail = stderr.decode(errors="replace").strip()
    return TaskFailed(f"{program} {what}: {tail}" if tail else f"{program} {what}", type=kind)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal has a number only
        return f"signal {number}"
