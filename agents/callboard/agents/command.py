"""One run of a command as a handler of tasks; the rules stand in `callboard.agents.exec`."""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import msgspec

from callboard.agents.context import TaskContext
from callboard.agents.errors import TaskFailed
from callboard.agents.groups import GROUPS, end_group
from callboard.agents.invocation import Call, Invocation
from callboard.agents.pipes import InputPipe, OutputPipe, OutputTooLargeError
from callboard.agents.progress_lines import ProgressLines
from callboard.agents.workdir import fresh_directory
from callboard.bus.processes import Process
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
        argv: the program and its arguments, each a template; no shell.
        stdin: a template of its input; `None` for the payload.
        env: templates of variables, by name.
        workdir: whether each run gets a new, empty working directory, removed after it.
        progress: what a line of standard error begins with to be progress, `""` for all; `None` for none.
        output: what standard output is.
        timeout_s: how long one run may take.
        grace_s: between SIGTERM and SIGKILL.
        max_output_bytes: of standard output.

    Raises:
        ConfigurationError: there is no such program, or a template is wrong.
    """

    argv: tuple[str, ...]
    stdin: str | None = None
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    workdir: bool = False
    progress: str | None = None
    output: Output = "text"
    timeout_s: float | None = None
    grace_s: float = 5.0
    max_output_bytes: int = RESULT_BYTES
    _invocation: Invocation = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # Frozen: this is the only way to set what the constructor is not given.
        object.__setattr__(self, "_invocation", Invocation.parse(self.argv, self.stdin, self.env))

    async def __call__(self, ctx: TaskContext) -> Any:  # noqa: ANN401 - a result is any JSON value
        """Run it once.

        Raises:
            TaskFailed: of type `invalid_payload`, `exit_status`, `signal`, `timeout`, `output_too_large`,
                `invalid_output` or `cannot_start`.
        """
        call = self._invocation.of(ctx)
        directory = fresh_directory(ctx.task_id) if self.workdir else contextlib.nullcontext()
        try:
            async with directory as cwd, asyncio.timeout(self.timeout_s):
                stdout = await self._run(ctx, call, cwd)
        except TimeoutError:
            raise TaskFailed(f"{self.argv[0]} took longer than {self.timeout_s:g} s", type="timeout") from None
        except OutputTooLargeError:
            message = f"{self.argv[0]} wrote more than {self.max_output_bytes} bytes"
            raise TaskFailed(message, type="output_too_large", retryable=False) from None
        return self._result(stdout)

    async def _run(self, ctx: TaskContext, call: Call, cwd: str | None) -> bytes:
        async with InputPipe() as stdin, OutputPipe() as stdout, OutputPipe() as stderr:
            try:
                process = Process(
                    (*_GATE, *call.argv),
                    env=call.env,
                    stdin=stdin.child_end,
                    stdout=stdout.child_end,
                    stderr=stderr.child_end,
                    cwd=cwd,
                )
            except OSError as error:
                raise TaskFailed(f"cannot start {self.argv[0]}: {error}", type="cannot_start") from None
            GROUPS.add(process.pid)
            for pipe in (stdin, stdout, stderr):
                pipe.close_child_end()
            stdin.write(b"\n" + call.stdin)
            lines = ProgressLines(self.progress, ctx)
            return await self._follow(process, stdout, stderr, lines.feed)

    async def _follow(
        self,
        process: Process,
        stdout: OutputPipe,
        stderr: OutputPipe,
        on_stderr: Callable[[bytes], None],
    ) -> bytes:
        """The output of a process that ends well; the group is dead when this returns or raises."""
        reading = asyncio.create_task(stdout.read(self.max_output_bytes))
        complaining = asyncio.create_task(stderr.read_tail(STDERR_TAIL_BYTES, on_stderr))
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
