"""A task to an agent of the protocol: the handler that prompts it, follows its answer and passes on its questions."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Any, Final

from callboard.agents.context import TaskContext
from callboard.agents.errors import TaskFailed
from callboard.agents.synadia.peers import Peer
from callboard.agents.synadia.prompts import Answer, answer_bytes, envelope_of, prompt_bytes
from callboard.agents.synadia.streams import NobodyThereError, Stream, prompted
from callboard.agents.synadia.wire import INBOX, Query, Response, Status
from callboard.bus.connection import Bus
from callboard.schemas.errors import OrchestratorError

DEFAULT_IDLE_S: Final = 60.0
"""What section 6.6 recommends: a terminator may be lost, and agents send signs of life every 30 s."""

QUESTION: Final = 2_000
"""Characters of a question that are asked: as JSON they stay under the protocol's 16 KiB whatever they are."""


class Prompter:
    """The handler of one peer's tasks.

    Args:
        bus: over which it is prompted.
        peer: whom to prompt.
        idle_s: how long it may say nothing, but for the time in which it waits for an answer.
        on_nobody: called when nobody listens on its prompt subject; the task is given back then.
    """

    def __init__(self, bus: Bus, peer: Peer, *, idle_s: float, on_nobody: Callable[[], None]) -> None:
        self._bus = bus
        self._peer = peer
        self._idle_s = idle_s
        self._on_nobody = on_nobody

    async def __call__(self, ctx: TaskContext) -> dict[str, Any]:
        """Run one task.

        Raises:
            TaskFailed: with what the agent, or the protocol, says of it.
        """
        peer = self._peer
        envelope = envelope_of(ctx.payload, ctx.description)
        most = min(filter(None, (peer.max_payload, self._bus.max_payload)))
        data = prompt_bytes(envelope, max_payload=most, attachments_ok=peer.attachments_ok)
        try:
            async with prompted(self._bus, peer.subject, data) as stream:
                try:
                    return await _Following(self._bus, ctx, stream, self._idle_s).result()
                except asyncio.CancelledError:
                    await self._see_off(stream)
                    raise
        except NobodyThereError:
            self._on_nobody()
            await asyncio.Event().wait()  # until the agent leaves, which gives the task back at no cost
            raise
        except OrchestratorError as error:
            raise TaskFailed(f"the prompt was not sent: {error.message}", type=error.code) from None

    async def _see_off(self, stream: Stream) -> None:
        """The agent goes on with what nobody wants any more (section 6.7): its slot stays taken until it is done."""
        with contextlib.suppress(TaskFailed, NobodyThereError):
            while await stream.next(self._idle_s) != "end":
                continue


class _Following:
    """One answer being followed. Questions are asked one after the other, while the chunks go on."""

    def __init__(self, bus: Bus, ctx: TaskContext, stream: Stream, idle_s: float) -> None:
        self._bus, self._ctx, self._stream, self._idle_s = bus, ctx, stream, idle_s
        self._answer = Answer()
        self._queries: asyncio.Queue[Query] = asyncio.Queue()
        self._open = 0

    async def result(self) -> dict[str, Any]:
        asking = asyncio.create_task(self._ask_all(), name="questions")
        asking.add_done_callback(lambda _: self._stream.wake())
        try:
            while True:
                chunk = await self._stream.next(None if self._open else self._idle_s)
                if asking.done():
                    asking.result()
                if chunk == "end":
                    return self._answer.result()
                self._take(chunk)
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    def _take(self, chunk: object) -> None:
        match chunk:
            case Response():
                self._answer.take(chunk)
                self._ctx.progress_nowait(message=_plain(self._answer.tail))
            case Query():
                if not chunk.reply_subject.startswith(INBOX):
                    what = f"the agent wants its answer on {chunk.reply_subject[:80]!r}, which is no inbox"
                    raise TaskFailed(what, type="protocol_error", retryable=False)
                self._open += 1
                self._queries.put_nowait(chunk)
            case Status():
                # A sign of life: what has a progress limit is not ended for want of one.
                self._ctx.progress_nowait(message=_plain(self._answer.tail or chunk.value[:64]))
            case _:
                pass

    async def _ask_all(self) -> None:
        while True:
            query = await self._queries.get()
            try:
                answer = await self._ctx.ask(_plain(query.prompt)[:QUESTION], _told(query))
            except OrchestratorError as error:
                raise TaskFailed(f"the agent's question was refused: {error.message}", type=error.code) from None
            # It may not wait any more: the protocol has no acknowledgement.
            with contextlib.suppress(OrchestratorError):
                self._bus.send(query.reply_subject, answer_bytes(answer))
            self._open -= 1
            self._stream.wake()


def _plain(text: str) -> str:
    """What our protocol takes: no NUL, nothing that is not UTF-8."""
    return text.replace("\0", "\ufffd").encode(errors="replace").decode()


def _told(query: Query) -> Mapping[str, Any]:
    """What is told of a question beside its text: its id, and the names of what is attached."""
    names = [each["filename"] for each in query.attachments]
    name = _plain(query.id)[:256]
    return {"id": name, "attachments": [_plain(each)[:256] for each in names[:16]]} if names else {"id": name}
