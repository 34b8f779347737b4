"""One prompt of a caller: it becomes a task, and the stream of chunks tells what becomes of that.

Rules:
- The first chunk is the ack, before anything that takes time; the last message is the terminator, whatever happened.
- The task is the caller's work, and the stream only tells of it: a stream that breaks off leaves the task alone, unless
  it is configured otherwise for callers that are gone.
- NATS tells when nobody listens any more: signs of life go out as requests, which nobody answers, but which come back
  with "no responders" when the caller's inbox is gone.
"""

import asyncio
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import structlog
from msgspec import UnsetType

from callboard.agents.synadia.errors import BAD_REQUEST, INTERNAL, error_of, refusal, refusal_of
from callboard.agents.synadia.replies import answer_of, query_of, result_chunks, status_of
from callboard.agents.synadia.streams import NO_RESPONDERS
from callboard.agents.synadia.wire import (
    ACK,
    TERMINATOR,
    Chunk,
    MalformedError,
    Status,
    read_envelope,
    write_chunk,
)
from callboard.bus.client import Client, SubmitOptions, failure_of
from callboard.bus.connection import Bus, BusMessage
from callboard.schemas.errors import OrchestratorError
from callboard.schemas.tasks import Question, TaskDocument
from callboard.schemas.vocabulary import TaskState

log = structlog.get_logger("callboard.agents.synadia")

SIGN_OF_LIFE_S: Final = 20.0
"""Well within the minute after which callers give up (section 6.6)."""
PATIENCE_S: Final = 3600.0
"""How long the orchestrator may be away while a caller waits: the task is kept."""
RETRY_S: Final = 1.0
MESSAGE_ID: Final = "Nats-Msg-Id"
"""Makes a repeated prompt the same task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What every prompt of a gateway becomes.

    Attributes:
        type: of the tasks.
        options: what else they ask for.
        max_payload: bytes of a prompt that is taken.
        cancels: whether a task is cancelled when its caller is gone.
        sign_of_life_s: how often a caller hears of us at least.
    """

    type: str
    options: SubmitOptions
    max_payload: int
    cancels: bool
    sign_of_life_s: float = SIGN_OF_LIFE_S


class CallerGoneError(Exception):
    """Nobody listens to the answers."""


class Conversation:
    """One caller's prompt, from its arrival to the terminator."""

    def __init__(self, bus: Bus, client: Client, terms: Terms, message: BusMessage) -> None:
        self._bus, self._client, self._terms, self._message = bus, client, terms, message
        self._gone = asyncio.Event()
        self._inbox = bus.new_inbox()
        self._asking: asyncio.Task[None] | None = None
        self._asked: tuple[int, int] | None = None
        self.task_id: str | None = None
        """The task, once there is one."""

    async def run(self) -> None:
        """All of it; a cancellation ends the stream with an error, and leaves the task alone."""
        try:
            await self._answer()
        except CallerGoneError:
            await self._leave_alone()
        except OrchestratorError as error:
            self._send_error(*refusal_of(error))
        except asyncio.CancelledError:
            goes_on = "" if self.task_id is None else f"; task {self.task_id} goes on"
            self._send_error(*refusal(INTERNAL, f"the gateway ends{goes_on}", "gateway_ends"))
            raise
        finally:
            if self._asking is not None:
                self._asking.cancel()
                await asyncio.gather(self._asking, return_exceptions=True)

    async def _answer(self) -> None:
        data, most = self._message.data, self._terms.max_payload
        if len(data) > most:
            self._send_error(*refusal(BAD_REQUEST, f"the prompt has {len(data)} bytes, of at most {most}", "too_large"))
            return
        try:
            envelope = read_envelope(data)
        except MalformedError as error:
            self._send_error(*refusal(BAD_REQUEST, str(error), "invalid_request"))
            return
        listening = await self._bus.subscribe(self._inbox, self._nobody)
        self._give_sign_of_life()
        signs = asyncio.create_task(self._give_signs_of_life(), name="signs-of-life")
        try:
            await self._unless_gone(self._follow(envelope))
        finally:
            signs.cancel()
            await asyncio.gather(signs, return_exceptions=True)
            await listening.unsubscribe()

    async def _follow(self, envelope: dict[str, Any]) -> None:
        key = (self._message.headers or {}).get(MESSAGE_ID)
        options: SubmitOptions = {**self._terms.options, "key": f"prompt:{key}"[:256]} if key else self._terms.options
        self.task_id = (await self._client.submit(self._terms.type, envelope, **options)).task_id
        told = ""
        async with aclosing(self._client.watch(self.task_id, patience_s=PATIENCE_S)) as changes:
            async for task in changes:
                if task.state.is_final:
                    self._end(task)
                    return
                if (status := status_of(task)) != told:
                    told = status
                    self._tell(Status(status))
                self._note_question(task)

    def _end(self, task: TaskDocument) -> None:
        if task.state is not TaskState.SUCCEEDED:
            headers, body = error_of(task.error, failure_of(task).message)
            self._send(body, headers)
        elif not isinstance(task.result, UnsetType):
            for chunk in result_chunks(msgspec.json.decode(task.result), self._bus.max_payload):
                self._tell(chunk)
        self._send(TERMINATOR)

    # Questions.

    def _note_question(self, task: TaskDocument) -> None:
        """A new question is passed on; one that was answered elsewhere, or overtaken, is not waited for any more."""
        asked = None if task.question is None else (task.attempt, task.question.query)
        if asked == self._asked:
            return
        self._asked = asked
        if self._asking is not None:
            self._asking.cancel()
        if task.question is not None:
            self._asking = asyncio.create_task(self._ask(task, task.question), name="question")

    async def _ask(self, task: TaskDocument, question: Question) -> None:
        replies: asyncio.Queue[BusMessage] = asyncio.Queue()
        inbox = self._bus.new_inbox()
        subscription = await self._bus.subscribe(inbox, replies.put_nowait)
        try:
            self._tell(query_of(task, question, inbox))
            answer = await _answer_in(replies)
            while True:
                try:
                    await self._client.answer(task.task_id, answer, attempt=task.attempt, query=question.query)
                except OrchestratorError as error:
                    if not error.retryable:
                        log.info("answer not taken", task_id=task.task_id, code=error.code, why=error.message)
                        return
                    await asyncio.sleep(RETRY_S)  # until somebody serves the pool again
                else:
                    return
        finally:
            await subscription.unsubscribe()

    # The caller.

    def _give_sign_of_life(self) -> None:
        """A request that nobody answers: whether anybody is there is what it asks."""
        with suppress(OrchestratorError):
            self._bus.send(self._message.reply, write_chunk(Status(ACK)), reply=self._inbox)

    async def _give_signs_of_life(self) -> None:
        while True:
            await asyncio.sleep(self._terms.sign_of_life_s)  # a cadence
            self._give_sign_of_life()

    def _nobody(self, message: BusMessage) -> None:
        if message.status == NO_RESPONDERS:
            self._gone.set()

    async def _unless_gone(self, work: Any) -> None:  # noqa: ANN401 - any coroutine
        """Do the work; when the caller is gone before, stop.

        Raises:
            CallerGoneError: it is.
        """
        working = asyncio.ensure_future(work)
        leaving = asyncio.ensure_future(self._gone.wait())
        try:
            await asyncio.wait([working, leaving], return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise CallerGoneError
            working.result()
        finally:
            for each in (working, leaving):
                each.cancel()
            await asyncio.gather(working, leaving, return_exceptions=True)

    async def _leave_alone(self) -> None:
        log.info("caller is gone", task_id=self.task_id, cancels=self._terms.cancels)
        if self._terms.cancels and self.task_id is not None:
            with suppress(OrchestratorError):
                await self._client.cancel(self.task_id, reason="its caller is gone")

    def _tell(self, chunk: Chunk) -> None:
        self._send(write_chunk(chunk))

    def _send_error(self, headers: dict[str, str], body: bytes) -> None:
        """An error, which ends the stream."""
        self._send(body, headers)
        self._send(TERMINATOR)

    def _send(self, data: bytes, headers: dict[str, str] | None = None) -> None:
        """Chunks are sent at most once (section 6.6); what is lost while NATS is away is lost."""
        with suppress(OrchestratorError):
            self._bus.send(self._message.reply, data, headers=headers)


async def _answer_in(replies: "asyncio.Queue[BusMessage]") -> Any:  # noqa: ANN401 - any JSON value
    """The first reply that is one."""
    while True:
        message = await replies.get()
        try:
            return answer_of(read_envelope(message.data))
        except MalformedError as error:
            log.info("reply not understood", why=str(error))
