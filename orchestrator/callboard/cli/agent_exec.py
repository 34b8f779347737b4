"""The command that turns any command into an agent."""

import sys
from typing import Annotated

from cyclopts import Parameter

from callboard.cli.connection import HERE, Connection, options_of, run
from callboard.cli.exits import UsageError
from callboard.cli.values import DurationMs, Names, parse_label, parse_pairs


def agent_exec(
    *command: Annotated[str, Parameter(allow_leading_hyphen=True)],
    capability: Names = None,
    type: Names = None,  # noqa: A002 - the protocol's field
    agent_id: str | None = None,
    role: str | None = None,
    slots: int | None = None,
    label: Names = None,
    grace: DurationMs = 10_000,
    to: Connection = HERE,
) -> None:
    """Run a command for each task, as an agent, until interrupted.

    The task's payload is the command's standard input; its standard output is the result; exit status 0 is success.
    A cancel ends the command's process group. What is not given is taken from the CALLBOARD_ variables that a
    spawned agent gets.

    Args:
        command: The command and its arguments, after --.
        capability: What this agent can do; may be repeated.
        type: Take only tasks of this type; may be repeated; all types by default.
        agent_id: This agent's id; a new one by default.
        role: This agent's role.
        slots: How many tasks it runs at once; 1 by default.
        label: A label, name=value; may be repeated.
        grace: How long the processes of a cancelled task may take to end.
        to: How the orchestrator is reached.
    """
    if not command:
        raise UsageError("give the command to run, after --; for example: callboard agent exec -- wc -c")
    from callboard.agents.agent import Agent  # noqa: PLC0415 - nats is not needed for --help
    from callboard.agents.exec import run_command  # noqa: PLC0415 - the same

    _log_to_stderr()
    labels = {name: parse_label(value) for name, value in parse_pairs(label, "--label").items()}
    agent = Agent(
        agent_id,
        capabilities=capability,
        role=role,
        slots=slots,
        labels=labels or None,
        pool=to.pool,
        prefix=to.prefix,
    )
    handler = run_command(command, grace_s=grace / 1000)
    for task_type in type or ["*"]:
        agent.task(task_type)(handler)
    options, _advice = options_of(to)
    run(agent.run(options))


def _log_to_stderr() -> None:
    import structlog  # noqa: PLC0415 - not needed for --help

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
