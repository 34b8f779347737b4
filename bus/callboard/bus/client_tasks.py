"""The client's requests about tasks (protocol, section 4)."""

import asyncio
import builtins
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Final, Unpack

import msgspec

from callboard.bus import tracing
from callboard.bus.ask import ask
from callboard.bus.client_batches import SLICE_MS, Submits, Waits
from callboard.bus.client_calls import DEFAULT_TIMEOUT_S, REPLY_S, Caller, Outage, within
from callboard.bus.client_spec import SubmitOptions, as_raw, make_spec, new_key, with_trace
from callboard.bus.connection import Bus, BusMessage
from callboard.schemas.codec import encode
from callboard.schemas.errors import (
    InvalidRequestError,
    OrchestratorError,
    OutcomeUnknownError,
    TaskFailedError,
    UnavailableError,
)
from callboard.schemas.subjects import DEFAULT_POOL, DEFAULT_PREFIX
from callboard.schemas.tasks import (
    AnswerTask,
    CancelTask,
    CompleteTask,
    GetTask,
    ListTasks,
    RetryTask,
    SubmitAnswer,
    SubmitMany,
    SubmitManyAnswer,
    SubmitResult,
    TaskChange,
    TaskDocument,
    TaskPage,
    TaskSpec,
    WaitManyAnswer,
    WaitTask,
)
from callboard.schemas.vocabulary import TaskState
from callboard.schemas.why import AskWhy, Why

_SLICE_GRACE_S: Final = 2.0
_LOOK_S: Final = 1.0
"""Progress has no event and is kept at most once a second; and events are sent at most once."""


class TaskCalls(Caller):
    """Submit, read, await and end tasks.

    `timeout_s` is how long a request is tried before its last error is raised. Each method raises
    `InvalidRequestError` for values outside the protocol's ranges, `UnavailableError` when nobody answers and
    `OutcomeUnknownError` when it is not known whether the request was carried out (asking again is safe).
    """

    def __init__(self, bus: Bus, *, pool: str = DEFAULT_POOL, prefix: str = DEFAULT_PREFIX) -> None:
        super().__init__(bus, pool=pool, prefix=prefix)
        at = self._subjects
        self._many_turn = asyncio.Lock()
        """One list of tasks after another: all at once they wait for each other at the owner, and stand in the way of
        the tasks that are done meanwhile."""
        self._submits = Submits(
            lambda many: self._ask(at.tasks("submit_many"), many, SubmitManyAnswer),
            lambda spec: self._ask(at.tasks("submit"), spec, SubmitAnswer),
        )
        self._waits = Waits(
            lambda many: ask(
                bus, at.tasks("wait_many"), many, WaitManyAnswer, timeout_s=many.timeout_ms / 1000 + _SLICE_GRACE_S
            ),
            lambda one: ask(bus, at.tasks("wait"), one, TaskDocument, timeout_s=one.timeout_ms / 1000 + _SLICE_GRACE_S),
        )

    async def submit(
        self,
        type: str,  # noqa: A002 - the protocol's field
        payload: object = None,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        **options: Unpack[SubmitOptions],
    ) -> SubmitAnswer:
        """Submit a task; when this returns, the task is committed.

        Args:
            type: what kind of work: the name that agents handle.
            payload: any value with a JSON form, or `msgspec.Raw` to send bytes as they are; at most 256 KiB.
            timeout_s: how long to try.
            options: what the task asks for, see `SubmitOptions`; a `key` is made when none is given.

        Raises:
            KeyConflictError: `key` belongs to a task with other content.
            PayloadTooLargeError: a part is larger than allowed.
            ResourceLimitError: the queue is full, for all of `timeout_s`.
            TaskDelegationError: nobody could take it and `on_unsatisfiable` is `reject`.
        """
        return await self.submit_spec(make_spec(type, payload, options), timeout_s=timeout_s)

    async def submit_spec(self, spec: TaskSpec, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> SubmitAnswer:
        """Submit a specification as it is; without a `key` in it, a repetition could make a second task.

        Raises:
            OrchestratorError: as `submit`.
        """
        if tracing.is_on():
            with tracing.submitting(spec.type, self.pool) as submit:
                answer = await self._submit_spec(with_trace(spec, submit.traceparent), timeout_s=timeout_s)
                submit.accepted(answer.task_id)
                return answer
        return await self._submit_spec(spec, timeout_s=timeout_s)

    async def _submit_spec(self, spec: TaskSpec, *, timeout_s: float) -> SubmitAnswer:
        if spec.key is None:
            # Whether to ask again after a doubt about many is then for nobody to say.
            subject = self._subjects.tasks("submit")
            return await self._call(subject, spec, SubmitAnswer, timeout_s=timeout_s, reply_s=REPLY_S)

        async def once(left_s: float) -> SubmitAnswer:
            if left_s > REPLY_S:
                # The request ends before.
                return await self._submits.submit(spec)
            async with within(left_s):
                return await self._submits.submit(spec)

        return await self._repeat(once, timeout_s=timeout_s)

    async def submit_many(
        self, specs: Sequence[TaskSpec], *, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> list[SubmitResult]:
        """Submit up to 1,000 specifications in one transaction; one result for each, in their order.

        A `key` is made for each that has none, so that a repetition is safe. All of them together must fit into one
        message of NATS (1 MiB unless configured otherwise). Of several calls at once each waits for the one before.

        Raises:
            PayloadTooLargeError: they do not fit into one message.
            OutcomeUnknownError, UnavailableError: for all of them, after `timeout_s`.
        """
        keyed = [spec if spec.key else msgspec.structs.replace(spec, key=new_key()) for spec in specs]
        if tracing.is_on() and keyed:
            kinds = {spec.type for spec in keyed}
            kind = kinds.pop() if len(kinds) == 1 else "tasks"
            with tracing.submitting(kind, self.pool, count=len(keyed)) as submit:
                return await self._submit_many([with_trace(spec, submit.traceparent) for spec in keyed], timeout_s)
        return await self._submit_many(keyed, timeout_s)

    async def _submit_many(self, keyed: Sequence[TaskSpec], timeout_s: float) -> builtins.list[SubmitResult]:
        question = SubmitMany(tasks=[msgspec.Raw(encode(spec)) for spec in keyed])
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                await self._many_turn.acquire()
        except TimeoutError:
            message = f"not sent: another list of this client is not answered for {timeout_s:g} s"
            raise UnavailableError(message) from None
        try:
            left_s = max(until - loop.time(), 0.001)
            subject = self._subjects.tasks("submit_many")
            return (await self._call(subject, question, SubmitManyAnswer, timeout_s=left_s)).results
        finally:
            self._many_turn.release()

    async def get(
        self, task_id: str | None = None, *, key: str | None = None, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> TaskDocument:
        """The task with this id, or with this idempotency key: exactly one of the two.

        Raises:
            TaskNotFoundError: there is none in this pool.
        """
        try:
            question = GetTask(task_id=task_id, key=key)
        except ValueError as error:
            raise InvalidRequestError(str(error), path="") from None
        return await self._call(self._subjects.tasks("get"), question, TaskDocument, timeout_s=timeout_s)

    async def list(
        self,
        *,
        state: TaskState | None = None,
        type: str | None = None,  # noqa: A002 - the protocol's field
        agent_id: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> TaskPage:
        """A page of tasks without payload, result and attempts, newest first: at most `limit` (50; up to 500).

        A page is shorter where more would not fit into one message. Only without a `cursor`, which asks for the next
        page with the same filters, it is the last.
        """
        question = ListTasks(state=state, type=type, agent_id=agent_id, limit=limit, cursor=cursor)
        return await self._call(self._subjects.tasks("list"), question, TaskPage, timeout_s=timeout_s)

    async def wait(
        self, task_id: str, *, timeout_s: float | None = None, patience_s: float = DEFAULT_TIMEOUT_S
    ) -> TaskDocument:
        """The task once it is final, or as it stands after `timeout_s` (`None`: no limit). See `.state.is_final`.

        Requests of concurrent callers go together, in slices of 10 s, and so ride over restarts and fail-overs.

        Args:
            task_id: which task.
            timeout_s: how long to wait for the task.
            patience_s: how long the orchestrator may be away at a stretch.

        Raises:
            TaskNotFoundError: there is no such task in this pool.
            UnavailableError: nobody answered for `patience_s`.
        """
        loop = asyncio.get_running_loop()
        until = None if timeout_s is None else loop.time() + timeout_s
        outage = Outage(patience_s)
        while True:
            try:
                if until is None:
                    return await self._waits.final(task_id)
                left_ms = round(max(until - loop.time(), 0) * 1000)
                async with asyncio.timeout_at(until):
                    return await self._waits.final(task_id, slice_ms=min(left_ms, SLICE_MS))
            except TimeoutError:
                return await self._stands(task_id, timeout_s=min(patience_s, _SLICE_GRACE_S))
            except OrchestratorError as error:
                if not error.retryable or (until is not None and loop.time() >= until):
                    raise
                await outage.endure(error, until)

    async def _stands(self, task_id: str, *, timeout_s: float) -> TaskDocument:
        """The task as it stands."""
        question = WaitTask(task_id=task_id, timeout_ms=0)
        return await self._call(self._subjects.tasks("wait"), question, TaskDocument, timeout_s=timeout_s)

    async def watch(self, task_id: str, *, patience_s: float = DEFAULT_TIMEOUT_S) -> AsyncGenerator[TaskDocument]:
        """The task now, then at each change of state or progress that is seen, up to its final state.

        Changes close to one another may be seen as one. Use `contextlib.aclosing` when you may leave early.

        Args:
            task_id: which task.
            patience_s: how long the orchestrator may be away at a stretch.

        Raises:
            TaskNotFoundError: there is no such task in this pool.
            UnavailableError: nobody answered for `patience_s`.
        """
        changed = asyncio.Event()

        def notice(_message: BusMessage) -> None:
            changed.set()

        events = await self._bus.subscribe(self._subjects.task_events(task_id), notice)
        try:
            seen: TaskDocument | None = None
            while seen is None or not seen.state.is_final:
                changed.clear()
                task = await self.get(task_id, timeout_s=patience_s)
                if seen is None or (task.version, task.progress) != (seen.version, seen.progress):
                    yield task
                seen = task
                if not task.state.is_final:
                    await _set_within(changed, _LOOK_S)
        finally:
            await events.unsubscribe()

    async def result(self, task_id: str, *, timeout_s: float | None = None) -> Any:  # noqa: ANN401 - any JSON value
        """The decoded result of a task, awaited for `timeout_s` (`None`: no limit).

        Raises:
            TaskFailedError: the task ended without success; `details` has `task_id`, `state` and `error`.
            OutcomeUnknownError: it is not final after `timeout_s`; it goes on.
            TaskNotFoundError: there is no such task in this pool.
        """
        task = await self.wait(task_id, timeout_s=timeout_s)
        if task.state is TaskState.SUCCEEDED:
            return task.result_value()
        if not task.state.is_final:
            raise OutcomeUnknownError(
                f"task {task_id} is {task.state} after {timeout_s:g} s; it goes on", task_id=task_id, state=task.state
            )
        raise failure_of(task)

    async def run(
        self,
        type: str,  # noqa: A002 - the protocol's field
        payload: object = None,
        *,
        timeout_s: float | None = None,
        **options: Unpack[SubmitOptions],
    ) -> Any:  # noqa: ANN401 - any JSON value
        """`submit` and `result` in one: the decoded result of a new task, awaited for `timeout_s`.

        Raises:
            OrchestratorError: as `submit` and `result`.
        """
        answer = await self.submit(type, payload, **options)
        return await self.result(answer.task_id, timeout_s=timeout_s)

    async def why(
        self, task_id: str | None = None, *, spec: TaskSpec | None = None, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> Why:
        """Why a task waits or why its agent was chosen; or, as a dry run, who could take `spec`. One of the two.

        Raises:
            TaskNotFoundError: there is no such task in this pool.
        """
        try:
            question = AskWhy(task_id=task_id, task=spec)
        except ValueError as error:
            raise InvalidRequestError(str(error), path="") from None
        return await self._call(self._subjects.tasks("why"), question, Why, timeout_s=timeout_s)

    async def cancel(
        self, task_id: str, *, reason: str | None = None, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> TaskChange:
        """Cancel a task that waits or runs; `changed: false` when it was cancelled already.

        Raises:
            InvalidTransitionError: it ended otherwise; `details.state`.
            TaskNotFoundError: there is no such task in this pool.
        """
        question = CancelTask(task_id=task_id, reason=reason)
        return await self._call(self._subjects.tasks("cancel"), question, TaskChange, timeout_s=timeout_s)

    async def answer(
        self,
        task_id: str,
        answer: object = None,
        *,
        attempt: int | None = None,
        query: int | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> TaskChange:
        """Answer what a task's agent asks, with any JSON value; `changed: false` when it was answered before.

        Without `query` it is to the question that is open now, which is read first. To repeat this in doubt, give
        `attempt` and `query` as `get` shows them: then it cannot become the answer to the next question.

        Raises:
            InvalidTransitionError: the task asks nothing, or no such question; `details.state`.
            StaleAttemptError: the task is at another attempt.
            PayloadTooLargeError: `answer` is larger than 256 KiB.
            TaskNotFoundError: there is no such task in this pool.
        """
        given = as_raw(answer, path="answer")
        if query is None:
            task = await self.get(task_id, timeout_s=timeout_s)
            # A task that was never assigned is at attempt 0, which no message can name.
            attempt = attempt or task.attempt or None
            query = None if task.question is None else task.question.query
        question = AnswerTask(task_id=task_id, attempt=attempt, query=query, answer=given)
        return await self._call(self._subjects.tasks("answer"), question, TaskChange, timeout_s=timeout_s)

    async def retry(self, task_id: str, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> TaskChange:
        """Make a new task of a final, unsuccessful one; asked twice, the same new one (`task_id` of the answer).

        Raises:
            InvalidTransitionError: it succeeded or is not final; `details.state`.
            TaskNotFoundError: there is no such task in this pool.
        """
        question = RetryTask(task_id=task_id)
        return await self._call(self._subjects.tasks("retry"), question, TaskChange, timeout_s=timeout_s)

    async def complete(
        self, task_id: str, result: object = None, *, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> TaskChange:
        """Finish a task that is not final, as its client; `result` as the payload of `submit`.

        Raises:
            InvalidTransitionError: it is final already; `details.state`.
            PayloadTooLargeError: `result` is larger than 256 KiB.
            TaskNotFoundError: there is no such task in this pool.
        """
        question = CompleteTask(task_id=task_id, result=as_raw(result, path="result"))
        return await self._call(self._subjects.tasks("complete"), question, TaskChange, timeout_s=timeout_s)


def failure_of(task: TaskDocument) -> TaskFailedError:
    """The exception for a task that ended without success."""
    cause = task.error.message if task.error else task.reason
    return TaskFailedError(
        f"task {task.task_id} {task.state}" + (f": {cause}" if cause else ""),
        task_id=task.task_id,
        state=task.state,
        error=task.error.message if task.error else None,
    )


async def _set_within(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
