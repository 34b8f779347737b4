"""The handlers of an agent, and their running on the user's event loop.

- An asynchronous handler runs as a task of that loop; a synchronous one in a thread of its own, a daemon, so that one
  that never ends cannot keep the process from ending.
- Whatever a handler does ends in exactly one event for the session. Its traceback is logged here and never sent.
- A cancel sets `ctx.cancelled` first, then cancels the task of an asynchronous handler; a thread can only be asked.
"""

import asyncio
import contextlib
import contextvars
import inspect
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Final

import structlog

from callboard.agents.context import TaskContext
from callboard.agents.crossing import Crossing
from callboard.agents.errors import TaskFailed
from callboard.agents.session import effects as do
from callboard.agents.session import events as ev
from callboard.bus import tracing
from callboard.schemas.codec import encode_value
from callboard.schemas.errors import ConfigurationError
from callboard.schemas.names import is_name
from callboard.schemas.tasks import AttemptRef, TaskError

log = structlog.get_logger("callboard.agents")

Handler = Callable[[TaskContext], Awaitable[Any]] | Callable[[TaskContext], Any]
Post = Callable[[ev.Event], None]
Ended = ev.HandlerSucceeded | ev.HandlerFailed

ANY: Final = "*"
"""The type of the handler for every type that has none of its own."""
MESSAGE_CHARACTERS: Final = 2_000
"""How much of an error's text is sent: its JSON stays under the protocol's 16 KiB whatever it holds."""


class Handlers:
    """Handlers by task type."""

    def __init__(self) -> None:
        self._by_type: dict[str, Handler] = {}

    def add(self, task_type: str, handler: Handler) -> None:
        """Run `handler` for tasks of `task_type`, `*` for all that have none of their own.

        Raises:
            ConfigurationError: the type is not a name of the protocol or has a handler already.
        """
        if task_type != ANY and not is_name(task_type):
            raise ConfigurationError(
                f"not a task type: {task_type!r}; use letters, digits, '-' and '_', or '*' for any"
            )
        if task_type in self._by_type:
            raise ConfigurationError(f"task type {task_type!r} has a handler already")
        self._by_type[task_type] = handler

    @property
    def types(self) -> frozenset[str] | None:
        """The types that can be run; `None` for all."""
        return None if ANY in self._by_type else frozenset(self._by_type)

    def find(self, task_type: str) -> Handler:
        """The handler of an accepted type."""
        return self._by_type.get(task_type) or self._by_type[ANY]


class HandlerHost:
    """Runs handlers on the event loop on which it was made; `start` and `cancel` may be called from any thread."""

    def __init__(self, handlers: Handlers, agent_id: str = "") -> None:
        self._handlers = handlers
        self._agent_id = agent_id
        self._loop = asyncio.get_running_loop()
        self._crossing = Crossing(self._loop)
        self._running: dict[AttemptRef, tuple[asyncio.Task[Ended], TaskContext]] = {}

    def start(self, effect: do.StartHandler, post: Post) -> None:
        """Begin; ends in one of the session's `Handler…` events, which `post` takes."""
        try:
            self._crossing.put(lambda: self._start(effect, post))
        except RuntimeError:
            # The loop was closed and the agent forgotten: give the work back instead of keeping it for ever.
            post(ev.StopRequested())

    def cancel(self, ref: AttemptRef) -> None:
        """Have the handler end."""
        with contextlib.suppress(RuntimeError):  # a closed loop runs no handler any more
            self._crossing.put(lambda: self._cancel(ref))

    def answer(self, effect: do.GiveAnswer) -> None:
        """Tell the handler what was answered to its question."""
        with contextlib.suppress(RuntimeError):  # a closed loop runs no handler any more
            self._crossing.put(lambda: self._answer(effect))

    async def close(self) -> None:
        """Cancel all that still runs, wait for the asynchronous ones, leave the threads behind."""
        tasks = [task for task, _ in self._running.values()]
        for task, context in self._running.values():
            context.cancel()
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, effect: do.StartHandler, post: Post) -> None:
        ref = effect.ref
        context = TaskContext(
            effect.offer,
            lambda progress: post(ev.ProgressMade(ref, progress)),
            lambda query, prompt, data: post(ev.QuestionAsked(ref, query, prompt, data)),
        )
        handler = self._handlers.find(effect.offer.type)
        # In the handler's own variables, which end with it: there is nothing to unbind.
        variables = contextvars.copy_context()
        variables.run(structlog.contextvars.bind_contextvars, task_id=ref.task_id, attempt=ref.attempt)
        task = self._loop.create_task(
            run_attempt(handler, ref, context, self._agent_id),
            name=f"task {ref.task_id}/{ref.attempt}",
            context=variables,
        )
        self._running[ref] = task, context
        task.add_done_callback(lambda _: post(self._ended(ref)))

    def _answer(self, effect: do.GiveAnswer) -> None:
        if effect.ref in self._running:
            self._running[effect.ref][1].answered(effect.query, effect.answer)

    def _cancel(self, ref: AttemptRef) -> None:
        if ref not in self._running:
            return
        task, context = self._running[ref]
        context.cancel()
        if is_async(self._handlers.find(context.type)):
            task.cancel()

    def _ended(self, ref: AttemptRef) -> ev.Event:
        task, context = self._running.pop(ref)
        if not task.cancelled():
            return task.result()
        if context.cancelled:
            return ev.HandlerStopped(ref)
        return ev.HandlerFailed(ref, TaskError(type="cancelled", message="the handler cancelled itself"))


def is_async(handler: Handler) -> bool:
    """Whether `handler` is run on the loop; an object with an asynchronous `__call__` is, too."""
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(handler, "__call__", None))  # noqa: B004 - its kind is asked for, not whether it can be called


async def run_attempt(handler: Handler, ref: AttemptRef, context: TaskContext, agent_id: str = "") -> Ended:
    """Call the handler as its kind asks for; every exception is an outcome."""
    if not tracing.is_on():
        return await _run_attempt(handler, ref, context)
    with tracing.running(context.type, ref.task_id, ref.attempt, agent_id, context.traceparent) as run:
        ended = await _run_attempt(handler, ref, context)
        if isinstance(ended, ev.HandlerFailed):
            run.failed(ended.error.type or "failed", ended.error.message)
        return ended


async def _run_attempt(handler: Handler, ref: AttemptRef, context: TaskContext) -> Ended:
    try:
        if is_async(handler):
            value = await handler(context)
            return _succeeded(ref, value)
        return await _in_thread(lambda: _succeeded(ref, handler(context)))
    except TaskFailed as failed:
        return ev.HandlerFailed(ref, _shortened(failed.error))
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        if not context.cancelled:
            log.exception("handler failed", type=context.type)
        return ev.HandlerFailed(ref, _shortened(TaskError(type=type(error).__name__, message=_text_of(error))))


def _succeeded(ref: AttemptRef, value: object) -> Ended:
    """A result that is no JSON is the handler's mistake: another attempt would make it again."""
    try:
        return ev.HandlerSucceeded(ref, encode_value(value))
    except Exception as error:  # noqa: BLE001 - msgspec raises several kinds, and hooks of the value's class any
        message = f"the result cannot be written as JSON: {error}"
        return ev.HandlerFailed(ref, _shortened(TaskError(type="result_refused", message=message, retryable=False)))


async def _in_thread(function: Callable[[], Ended]) -> Ended:
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[tuple[Ended | None, BaseException | None]] = loop.create_future()
    variables = contextvars.copy_context()

    def settle(event: Ended | None, error: BaseException | None) -> None:
        # As a result, since there are exceptions that a future does not take.
        if not ended.done():
            ended.set_result((event, error))

    def work() -> None:
        event: Ended | None = None
        failure: BaseException | None = None
        try:
            event = variables.run(function)
        except BaseException as error:  # noqa: BLE001 - handed to the loop, where it is handled
            failure = error
        # Nobody waits for a thread that was left behind.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, event, failure)

    threading.Thread(target=work, name="callboard-handler", daemon=True).start()
    event, failure = await ended
    if event is None:
        raise failure or RuntimeError("the thread ended without a word")
    return event


def _text_of(error: BaseException) -> str:
    """What an exception says; its own code may raise instead."""
    try:
        return str(error) if isinstance(error, Exception) else f"the handler raised {error!r}"
    except Exception as other:  # noqa: BLE001 - whatever its class does
        return f"it has no text: {type(other).__name__}"


def _shortened(error: TaskError) -> TaskError:
    """What fits the protocol: no NUL, nothing that is not UTF-8, bounded."""
    message = _plain(error.message)[:MESSAGE_CHARACTERS]
    kind = None if error.type is None else _plain(error.type)[:128]
    return TaskError(message=message, type=kind, retryable=error.retryable, retry_after_ms=error.retry_after_ms)


def _plain(text: str) -> str:
    return text.replace("\x00", "�").encode(errors="replace").decode()
