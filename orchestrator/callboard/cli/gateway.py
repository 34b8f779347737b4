"""The command that makes a pool one agent of the Synadia Agent Protocol."""

import os
from typing import TYPE_CHECKING, Literal

from callboard.cli.connection import HERE, Connection
from callboard.cli.serving import serve_with
from callboard.cli.values import DurationMs, MaxAttempts, Names, Text
from callboard.schemas.vocabulary import TaskPriority

if TYPE_CHECKING:
    from callboard.bus.client import SubmitOptions


def gateway(
    *,
    owner: Text | None = None,
    name: Text | None = None,
    type: Text = "prompt",  # noqa: A002 - the option's name
    priority: TaskPriority | None = None,
    capability: Names = None,
    max_attempts: MaxAttempts | None = None,
    run_timeout: DurationMs | None = None,
    ttl: DurationMs | None = None,
    caller_gone: Literal["continue", "cancel"] = "continue",
    heartbeat: DurationMs = 30_000,
    to: Connection = HERE,
) -> None:
    """Let callers of the Synadia Agent Protocol prompt the pool as if it were one agent, until interrupted.

    A prompt becomes a task; its caller hears that it waits, runs and how far it
    is, is asked what its agent asks, and gets the result, or an error when it
    failed for good. It is prompted at agents.prompt.callboard.OWNER.NAME.

    Args:
        owner: The owner that is told; the user's name by default.
        name: The name that is told; the pool by default.
        type: The type of the tasks.
        priority: low, normal, high or critical.
        capability: What an agent must have to take them; may be repeated.
        max_attempts: How many attempts may fail.
        run_timeout: How long one attempt may take, e.g. 30m.
        ttl: How long a task may take in all, e.g. 2h; then it expires.
        caller_gone: What becomes of the task of a caller that is gone.
        heartbeat: How often it says that it is there.
        to: How the orchestrator is reached.
    """
    from callboard.agents.synadia.gateway import Gateway  # noqa: PLC0415 - nats is not needed for --help

    options: SubmitOptions = {
        "priority": priority or TaskPriority.NORMAL,
        "capabilities": capability,
        "max_attempts": max_attempts,
        "run_timeout_ms": run_timeout,
        "ttl_ms": ttl,
    }
    serve_with(
        lambda: Gateway(
            owner=owner or os.environ.get("USER") or "callboard",
            name=name,
            task_type=type,
            options=options,
            cancels=caller_gone == "cancel",
            interval_s=heartbeat / 1000,
            pool=to.pool,
            prefix=to.prefix,
        ),
        to,
    )
