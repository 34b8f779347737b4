"""The command that makes agents of the agents that speak the Synadia Agent Protocol."""

from functools import partial
from typing import Any

from callboard.cli.connection import HERE, Connection
from callboard.cli.serving import serve_with
from callboard.cli.values import DurationMs, Names, Slots, parse_pairs


def agent_synadia(
    *,
    only: Names = None,
    capability: Names = None,
    type: Names = None,  # noqa: A002 - the option's name
    slots: Slots = 1,
    idle_timeout: DurationMs = 60_000,
    to: Connection = HERE,
) -> None:
    """Let every agent that speaks the Synadia Agent Protocol take tasks, until interrupted.

    Agents are found by their heartbeats and by $SRV.INFO.agents, and sign in as
    synadia-AGENT-OWNER-NAME, with the capabilities synadia and AGENT, e.g.
    claude-code. They are prompted with the payload of a task: text, or an
    object with prompt and attachments; else the description with the payload
    below. The result has text, and attachments if there are any. What an agent
    asks makes its task wait for callboard answer.

    Args:
        only: Only agents with this metadata, e.g. owner=rene; may be repeated.
        capability: A capability for all of them; may be repeated.
        type: Take only tasks of this type; may be repeated; all types by default.
        slots: How many tasks each agent runs at once.
        idle_timeout: How long an agent may say nothing while it works.
        to: How the orchestrator is reached.
    """
    from callboard.agents.synadia.fleet import SynadiaFleet  # noqa: PLC0415 - nats is not needed for --help

    chosen: dict[str, Any] = {"only": parse_pairs(only, "--only"), "capabilities": capability, "slots": slots}
    make = partial(SynadiaFleet, task_types=type or ("*",), idle_s=idle_timeout / 1000, **chosen)
    serve_with(lambda: make(pool=to.pool, prefix=to.prefix), to)
