"""The wire, from the protocol page alone: a connection, answers held to section 2, and bounded waits.

Nothing below `tests/contract` but `conftest.py` imports Callboard: what these tests know, any client may rely on.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from nats.aio.client import Client
    from nats.aio.msg import Msg

Json = dict[str, Any]

PATIENCE_S: Final = 20.0
"""No single wait of a test is longer."""

ERRORS: Final[dict[str, tuple[int, bool]]] = {
    "invalid_request": (400, False),
    "configuration_error": (400, False),
    "task_not_found": (404, False),
    "agent_not_found": (404, False),
    "stale_attempt": (409, False),
    "incarnation_replaced": (409, False),
    "unknown_incarnation": (409, True),
    "key_conflict": (409, False),
    "invalid_transition": (409, False),
    "payload_too_large": (413, False),
    "task_delegation_failed": (422, False),
    "resource_limit": (429, True),
    "unavailable": (503, True),
    "outcome_unknown": (503, True),
    "internal": (500, True),
}
"""Code to number and `retryable`: the table of section 2."""

FINAL: Final = frozenset({"succeeded", "failed", "cancelled", "expired", "quarantined"})
NO_TASK: Final = "01993b5e-7c1a-7bd2-8f0e-3a1f5c2d9e10"
"""A well-formed task id that no task has."""


class RefusedError(Exception):
    """The answer is an error, well-formed as section 2 has it."""

    def __init__(self, error: Json) -> None:
        super().__init__(f"{error['code']}: {error['message']} {error['details']}")
        self.code: str = error["code"]
        self.details: Json = error["details"]
        self.retry_after_ms: int | None = error["retry_after_ms"]


def unique(stem: str) -> str:
    """A name that no other test uses: tests share one orchestrator."""
    return f"{stem}-{uuid.uuid4().hex[:12]}"


def read_answer(message: Msg) -> Json:
    """The document that `message` carries.

    Raises:
        RefusedError: It is an error. Its headers and body agree with each other and with the table.
    """
    answer = json.loads(message.data)
    assert isinstance(answer, dict), answer
    headers = message.headers or {}
    if "error" not in answer or "task_id" in answer:  # a task's document has a field of that name, too
        assert "Nats-Service-Error" not in headers, headers
        assert "Nats-Service-Error-Code" not in headers, headers
        return answer
    error = answer["error"]
    assert set(answer) == {"error"}
    assert set(error) == {"code", "message", "retryable", "retry_after_ms", "details"}
    number, retryable = ERRORS[error["code"]]
    assert headers["Nats-Service-Error-Code"] == str(number)
    assert headers["Nats-Service-Error"].isprintable()
    assert headers["Nats-Service-Error"]
    assert error["retryable"] is retryable
    assert error["message"]
    assert "\n" not in error["message"]
    assert error["retry_after_ms"] is None or error["retry_after_ms"] >= 0
    assert isinstance(error["details"], dict)
    raise RefusedError(error)


@dataclass
class Wire:
    """One pool's subjects, over one NATS connection."""

    nats: Client
    root: str = "callboard.v1.default"
    events: Events = field(init=False)

    def __post_init__(self) -> None:
        self.events = Events(self)

    async def ask_raw(self, verb: str, data: bytes, headers: dict[str, str] | None = None) -> Json:
        """The answer to these very bytes, sent to `<root>.<verb>`.

        Raises:
            RefusedError: The answer is an error.
        """
        message = await self.nats.request(f"{self.root}.{verb}", data, timeout=PATIENCE_S, headers=headers)
        return read_answer(message)

    async def ask(self, verb: str, /, **fields: Any) -> Json:  # noqa: ANN401 - JSON
        """The answer to the fields that are not `None`; errors as `ask_raw`."""
        body = {name: value for name, value in fields.items() if value is not None}
        return await self.ask_raw(verb, json.dumps(body).encode())

    async def accepted(self, verb: str, /, **fields: Any) -> Json:  # noqa: ANN401 - JSON
        """As `ask`, but repeated as long as the error is `retryable`: what a client does."""
        last: RefusedError | None = None
        async with fail_after(lambda: f"{verb} is not accepted: {last}"):
            while True:
                try:
                    return await self.ask(verb, **fields)
                except RefusedError as error:
                    if not ERRORS[error.code][1]:
                        raise
                    last = error
                await pause()

    async def refusal(self, verb: str, /, **fields: Any) -> RefusedError:  # noqa: ANN401 - JSON
        """The error that `ask` gets."""
        return await refused(self.ask(verb, **fields))

    async def submit(self, kind: str | None = None, **fields: Any) -> str:  # noqa: ANN401 - JSON
        """Submit a task and return its id; without a `requires` of its own nobody can take it."""
        fields.setdefault("requires", {"capabilities": [unique("nobody")]})
        answer = await self.ask("tasks.submit", type=kind or unique("work"), **fields)
        task_id: str = answer["task_id"]
        return task_id

    async def get(self, task_id: str) -> Json:
        return await self.ask("tasks.get", task_id=task_id)

    async def final(self, task_id: str) -> Json:
        """The task once it is final."""
        task = await self.ask("tasks.wait", task_id=task_id, timeout_ms=int(PATIENCE_S * 1000) - 2000)
        assert task["state"] in FINAL, task
        return task

    async def until(self, task_id: str, holds: Callable[[Json], bool]) -> Json:
        """The task once `holds`; the orchestrator's own `wait` paces the questions."""
        task: Json = {}
        async with fail_after(lambda: f"the task stays {task}"):
            while True:
                task = await self.ask("tasks.wait", task_id=task_id, timeout_ms=25)
                if holds(task):
                    return task
                assert task["state"] not in FINAL, task

    async def state(self, task_id: str, state: str) -> Json:
        """The task once it is in `state`."""
        return await self.until(task_id, lambda task: bool(task["state"] == state))

    async def round_trip(self) -> Json:
        """`status`: whatever this connection sent before has been looked at when it returns."""
        return await self.ask("status")

    async def submitted(self) -> int:
        """How many tasks the pool has taken since its owner took over."""
        counts: dict[str, int] = (await self.round_trip())["tasks"]["by_state"]
        return sum(counts.values())


class Events:
    """What the pool publishes below `event`, in order of arrival."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._changed = asyncio.Condition()
        self.seen: list[tuple[str, Json]] = []

    async def start(self) -> None:
        await self._wire.nats.subscribe(f"{self._wire.root}.event.>", cb=self._take)
        await self._wire.nats.flush()

    async def _take(self, message: Msg) -> None:
        async with self._changed:
            self.seen.append((message.subject.removeprefix(f"{self._wire.root}.event."), json.loads(message.data)))
            self._changed.notify_all()

    def of(self, name: str) -> list[tuple[str, Json]]:
        """The states, with the changes themselves, of one task or agent."""
        return [(kind.split(".")[1], body["data"]) for kind, body in self.seen if kind.endswith(f".{name}")]

    async def until(self, name: str, state: str, count: int = 1) -> Json:
        """The `count`th event that shows this task or agent in `state`."""
        async with fail_after(lambda: f"{name} not seen {state}: {self.of(name)}"):
            while True:
                bodies = [body for seen, body in self.of(name) if seen == state]
                if len(bodies) >= count:
                    return bodies[count - 1]
                async with self._changed:
                    await self._changed.wait()


async def refused(asking: Any) -> RefusedError:  # noqa: ANN401 - any awaitable
    """The error that `asking` is answered with; an answer that is none fails the test."""
    try:
        answer = await asking
    except RefusedError as error:
        return error
    raise AssertionError(f"not refused: {answer}")


async def pause() -> None:
    """The time between two questions about what nothing on the wire announces."""
    never = asyncio.Event()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.05):
            await never.wait()


@contextlib.asynccontextmanager
async def fail_after(story: Callable[[], str], seconds: float = PATIENCE_S) -> AsyncIterator[None]:
    """Cut short what takes longer than `seconds`, and tell how far it came."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise AssertionError(story()) from None
