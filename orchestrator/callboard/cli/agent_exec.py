"""The command that turns any command into an agent."""

import sys
from typing import Annotated, Literal

from cyclopts import Parameter

from callboard.cli.connection import HERE, Connection, connected, options_of, run
from callboard.cli.exits import UsageError
from callboard.cli.values import DurationMs, Names, Slots, parse_label, parse_pairs


def agent_exec(
    *command: Annotated[str, Parameter(allow_leading_hyphen=True)],
    capability: Names = None,
    type: Names = None,  # noqa: A002 - the protocol's field
    agent_id: str | None = None,
    role: str | None = None,
    slots: Slots | None = None,
    label: Names = None,
    output: Literal["text", "json"] = "text",
    run_timeout: DurationMs | None = None,
    grace: DurationMs = 5_000,
    to: Connection = HERE,
) -> None:
    """Run a command for each task, as an agent, until interrupted.

    The task's payload is the command's standard input (text as it is, all else
    as JSON), its standard output the result; exit status 0 is success. A cancel
    ends the command's process group. What is not given is taken from the
    CALLBOARD_ variables that a spawned agent gets.

    Args:
        command: The command and its arguments, after --.
        capability: What this agent can do; may be repeated.
        type: Take only tasks of this type; may be repeated; all types by default.
        agent_id: This agent's id; a new one by default.
        role: This agent's role.
        slots: How many tasks it runs at once; 1 by default.
        label: A label, name=value; may be repeated.
        output: What standard output is: text, or JSON, and then anything else fails the task.
        run_timeout: How long one run may take, e.g. 10s.
        grace: How long a process may take to end after SIGTERM.
        to: How the orchestrator is reached.
    """
    if not command:
        raise UsageError("give the command to run, after --; for example: callboard agent exec -- wc -c")
    if command[0].startswith("-"):
        raise UsageError(f"unknown option {command[0]!r}; the command to run goes after --")
    from callboard.agents.exec import ExecAgent  # noqa: PLC0415 - nats is not needed for --help

    options, advice = options_of(to)
    labels = {name: parse_label(value) for name, value in parse_pairs(label, "--label").items()}
    agent = ExecAgent(
        command,
        agent_id,
        capabilities=capability,
        role=role,
        slots=slots,
        labels=labels or None,
        pool=to.pool,
        prefix=to.prefix,
        task_types=type or ("*",),
        output=output,
        timeout_s=None if run_timeout is None else run_timeout / 1000,
        grace_s=grace / 1000,
    )

    async def serve() -> None:
        if advice:
            # Nobody gave this address: wait for ever only for one that has answered.
            async with connected(to):
                pass
        _log_to_stderr()
        await agent.run(options)

    run(serve())


def _log_to_stderr() -> None:
    import structlog  # noqa: PLC0415 - not needed for --help

    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(0), logger_factory=structlog.PrintLoggerFactory(sys.stderr)
    )
