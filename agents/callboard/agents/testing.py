"""Run a handler in a test, without a server.

run = await run_handler(review, {"text": "a"})
assert run.result == {"lines": 1}
"""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import structlog

from callboard.agents.context import TaskContext
from callboard.agents.errors import TaskFailed
from callboard.agents.handlers import Handler, run_attempt
from callboard.agents.session.events import HandlerFailed, HandlerSucceeded
from callboard.schemas.agents import Assign
from callboard.schemas.codec import encode_value
from callboard.schemas.tasks import AttemptRef, Progress
from callboard.schemas.vocabulary import TaskPriority

TASK_ID: Final = "00000000-0000-7000-8000-000000000000"


@dataclass(frozen=True, slots=True)
class HandlerRun:
    """What came of it: the result as a client would read it, all progress, and what was asked."""

    result: Any
    progress: tuple[Progress, ...]
    questions: tuple[str, ...] = ()


async def run_handler(
    handler: Handler,
    payload: object = None,
    *,
    task_type: str = "test",
    attempt: int = 1,
    description: str | None = None,
    metadata: Mapping[str, str] | None = None,
    previous_progress: Progress | None = None,
    answers: Iterable[object] = (),
) -> HandlerRun:
    """Run `handler` once as an agent would: a synchronous one in a thread, payload and result through JSON.

    `answers` are given to its questions, in their order; one that is left without waits for ever.

    Raises:
        TaskFailed: the attempt failed; `error` is what the orchestrator would be told.
    """
    offer = Assign(
        epoch=0,
        task_id=TASK_ID,
        attempt=attempt,
        type=task_type,
        payload=msgspec.Raw(encode_value(payload)),
        priority=TaskPriority.NORMAL,
        metadata=dict(metadata or {}),
        description=description,
        progress=previous_progress,
    )
    progress: list[Progress] = []
    questions: list[str] = []
    given = iter(answers)

    def ask(query: int, prompt: str, _data: bytes | None) -> None:
        questions.append(prompt)
        for answer in given:
            # As an answer comes: after the question was asked.
            loop.call_soon_threadsafe(context.answered, query, encode_value(answer))
            return

    loop = asyncio.get_running_loop()
    context = TaskContext(offer, progress.append, ask)
    with structlog.contextvars.bound_contextvars(task_id=TASK_ID, attempt=attempt):
        ended = await run_attempt(handler, AttemptRef(task_id=TASK_ID, attempt=attempt), context)
    match ended:
        case HandlerSucceeded(result=result):
            return HandlerRun(msgspec.json.decode(result), tuple(progress), tuple(questions))
        case HandlerFailed(error=error):
            raise TaskFailed.of(error)
