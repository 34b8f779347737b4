"""The command that prints events."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import msgspec

from callboard.cli.connection import HERE, Connection, connected, run
from callboard.cli.exits import UsageError
from callboard.cli.output import plain, print_line
from callboard.cli.values import Text, parse_duration_ms
from callboard.schemas.events import EVENT_TYPES, OWNED, AgentChanged, TaskChanged

if TYPE_CHECKING:
    from callboard.bus.client import HeardEvent

_TYPE: Final = "callboard."
_WIDTH: Final = 18
"""Of most types."""


def events(
    *,
    follow: bool = False,
    since: Text | None = None,
    type: Text | None = None,  # noqa: A002 - the option's name
    json: bool = False,
    to: Connection = HERE,
) -> None:
    """Print what changes: tasks, agents, the pool's owner. Without --since, what changes from now on.

    Args:
        follow: With --since: go on when all that is kept is printed.
        since: From then on, out of the stream that keeps the events (events.stream): 2h, or 2026-01-02T03:04:05Z.
        type: Only events of this type: task, task.failed, agent.online, pool.owned.
        json: Print each event as it is, a CloudEvent on a line.
        to: How the orchestrator is reached.
    """
    start = None if since is None else _instant(since)
    topic = "" if type is None else _topic(type)

    async def ask() -> None:
        async with connected(to) as client:
            async for heard in client.events(topic=topic, start=start, follow=follow or start is None):
                print_line(heard.body.decode() if json else _line(heard))

    run(ask())


def _topic(text: str) -> str:
    """What the client calls a type of events, or all of one kind.

    Raises:
        UsageError: there is no such type, so that nothing would ever be heard.
    """
    name = text.removeprefix(_TYPE)
    kinds = list(dict.fromkeys(known.partition(".")[0] for known in EVENT_TYPES))
    if name not in {*kinds, *EVENT_TYPES}:
        raise UsageError(f"--type {text!r}: no event is of this type, only of {', '.join((*kinds, *EVENT_TYPES))}")
    return "owner" if OWNED.startswith(name) else name


def _instant(text: str) -> datetime:
    """When an age or an instant is.

    Raises:
        UsageError: it is neither.
    """
    try:
        return datetime.now(UTC) - timedelta(milliseconds=parse_duration_ms(text))
    except ValueError:
        pass
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--since {text!r}: write a duration (90s, 2h) or an instant (2026-01-02T03:04:05Z)") from None
    return instant if instant.tzinfo is not None else instant.replace(tzinfo=UTC)


def _line(heard: "HeardEvent") -> str:
    event = heard.event
    kind = event.type.removeprefix(_TYPE)
    at = event.time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    words = [event.subject, *_details(kind, heard.body)]
    return f"{at} {plain(kind):<{_WIDTH}} {plain(' '.join(words))}"


def _details(kind: str, body: bytes) -> list[str]:
    if kind.startswith("task."):
        task = msgspec.json.decode(body, type=TaskChanged).data
        shown = {"type": task.type, "attempt": task.attempt or None, "agent": task.agent_id, "reason": task.reason}
        error = None if task.error is None else f"error={task.error.message}"
    elif kind.startswith("agent."):
        agent = msgspec.json.decode(body, type=AgentChanged).data
        shown, error = {"reason": agent.reason}, None
    else:
        return []
    return [f"{name}={value}" for name, value in shown.items() if value is not None] + ([error] if error else [])
