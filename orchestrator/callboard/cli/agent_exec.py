"""The command that turns any command into an agent."""

from functools import partial
from typing import Annotated, Literal

from cyclopts import Parameter

from callboard.cli.connection import HERE, Connection
from callboard.cli.exits import UsageError
from callboard.cli.serving import SOMEBODY, AgentOptions, serve
from callboard.cli.values import DurationMs, Names, parse_pairs


def agent_exec(
    *command: Annotated[str, Parameter(allow_leading_hyphen=True)],
    input: str | None = None,  # noqa: A002 - the option's name
    env: Names = None,
    workdir: bool = False,
    progress: str | None = None,
    output: Literal["text", "json"] = "text",
    run_timeout: DurationMs | None = None,
    grace: DurationMs = 5_000,
    who: AgentOptions = SOMEBODY,
    to: Connection = HERE,
) -> None:
    """Run a command for each task, as an agent, until interrupted.

    The task's payload is the command's standard input (text as it is, all else
    as JSON), its standard output the result; exit status 0 is success. A cancel
    ends the command's process group.

    Arguments, --input and --env may hold fields of the task: {payload},
    {payload.files.0}, {metadata.NAME}, {task_id}, {attempt}, {type},
    {description}, {priority}; {{ and }} are braces. No shell reads them.

    What is not given of an agent is taken from the CALLBOARD_ variables that a
    spawned one gets.

    Args:
        command: The command and its arguments, after --.
        input: Its standard input; the payload by default.
        env: A variable of its environment, NAME=value; may be repeated.
        workdir: Give each run a new, empty working directory, removed after it.
        progress: Lines of standard error that begin with this are progress, e.g. PROGRESS: or '' for all lines.
        output: What standard output is: text, or JSON, and then anything else fails the task.
        run_timeout: How long one run may take, e.g. 10s.
        grace: How long a process may take to end after SIGTERM.
        who: The agent.
        to: How the orchestrator is reached.
    """
    if not command:
        raise UsageError("give the command to run, after --; for example: callboard agent exec -- wc -c")
    if command[0].startswith("-"):
        raise UsageError(f"unknown option {command[0]!r}; the command to run goes after --")
    from callboard.agents.exec import ExecAgent  # noqa: PLC0415 - nats is not needed for --help

    make = partial(
        ExecAgent,
        command,
        stdin=input,
        env=parse_pairs(env, "--env"),
        workdir=workdir,
        progress=progress,
        output=output,
        timeout_s=None if run_timeout is None else run_timeout / 1000,
        grace_s=grace / 1000,
    )
    serve(make, who, to)
