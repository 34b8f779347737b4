"""Clients' requests about tasks: from decoded message to event, or to a read of the database.

What changes something becomes an event of the machine; what only reads goes to the store and answers itself.
"""

import msgspec

from callboard.bus.serve import Request, refusing
from callboard.orchestrator.answers import fitting
from callboard.orchestrator.config import SizeLimits
from callboard.orchestrator.core.events import (
    AnswerGiven,
    CancelRequested,
    CompletionRequested,
    TasksSubmitted,
    TaskSubmitted,
)
from callboard.orchestrator.core.model import Task
from callboard.orchestrator.core.specs import placement_text, stored_task
from callboard.orchestrator.core.why import explain_spec, explain_task
from callboard.orchestrator.ids import TaskIds
from callboard.orchestrator.many import submissions
from callboard.orchestrator.owner import PoolOwner
from callboard.orchestrator.reads import unavailable_while_away
from callboard.orchestrator.sendings import Sendings
from callboard.orchestrator.store.documents import Cursor
from callboard.orchestrator.store.port import Original
from callboard.orchestrator.submissions import Submissions, traced
from callboard.schemas.codec import checked_json, decode
from callboard.schemas.errors import InvalidTransitionError, OrchestratorError, TaskNotFoundError
from callboard.schemas.tasks import (
    AnswerTask,
    CancelTask,
    CompleteTask,
    GetTask,
    ListTasks,
    RetryTask,
    SubmitMany,
    TaskDocument,
    TaskPage,
    TaskSpec,
    WaitMany,
    WaitTask,
)
from callboard.schemas.vocabulary import TaskState
from callboard.schemas.why import AskWhy, Why

_SPEC = msgspec.json.Decoder(TaskSpec)


class TaskRequests:
    """Handles `tasks.*` for one owner."""

    def __init__(self, owner: PoolOwner, limits: SizeLimits, ids: TaskIds) -> None:
        self._owner = owner
        self._limits = limits
        self._submissions = Submissions(limits, ids, owner.clock)
        self._sendings = Sendings()
        self._pool = owner.lease.pool

    def submit(self, spec: TaskSpec, request: Request) -> None:
        """`tasks.submit`."""
        if self._sendings.joins(request):
            return
        if request.headers and spec.traceparent is None:
            spec = traced(spec, request.headers)
        submission = self._sendings.new(request)
        self._owner.request(submission, *self._submissions.of(spec))
        if spec.key is not None:
            submission.expect_more()

    def submit_many(self, message: SubmitMany, request: Request) -> None:
        """`tasks.submit_many`: each item is checked for itself; those that pass are one event, so one transaction."""
        if self._sendings.joins(request):
            return
        self._owner.require_open()
        submission = self._sendings.new(request)
        answers = submissions(submission, len(message.tasks))
        is_keyed = True
        events: list[TaskSubmitted] = []
        for index, raw in enumerate(message.tasks):
            item = answers.item(index)
            try:
                spec = decode(_SPEC, bytes(raw))
                if request.headers and spec.traceparent is None:
                    spec = traced(spec, request.headers)
                is_keyed = is_keyed and spec.key is not None
                event_of, fresh = self._submissions.of(spec)
            except OrchestratorError as error:
                item.refuse(error)
                continue
            ticket = self._owner.tickets.open(item)
            ticket.fresh = fresh
            events.append(event_of(ticket))
        if events:
            self._owner.post(TasksSubmitted(tuple(events)))
        if is_keyed:
            submission.expect_more()

    def cancel(self, message: CancelTask, request: Request) -> None:
        """`tasks.cancel`."""
        self._owner.request(
            request,
            lambda ticket: CancelRequested(ticket=ticket, task_id=message.task_id, reason=message.reason),
        )

    def complete(self, message: CompleteTask, request: Request) -> None:
        """`tasks.complete`."""
        result = checked_json(message.result, path="result", limit=self._limits.result_bytes)
        self._owner.request(
            request, lambda ticket: CompletionRequested(ticket=ticket, task_id=message.task_id, result=result)
        )

    def answer(self, message: AnswerTask, request: Request) -> None:
        """`tasks.answer`: answered once the answer is committed, whether or not the agent has it yet."""
        answer = checked_json(message.answer, path="answer", limit=self._limits.payload_bytes)
        self._owner.request(
            request,
            lambda ticket: AnswerGiven(
                ticket=ticket, task_id=message.task_id, answer=answer, attempt=message.attempt, query=message.query
            ),
        )

    def retry(self, message: RetryTask, request: Request) -> None:
        """`tasks.retry`: reads the original first."""
        self._owner.require_active()
        self._owner.spawn(self._retry(message.task_id, request))

    async def _retry(self, task_id: str, request: Request) -> None:
        with refusing(request):
            original = await self._original(task_id)
            spec = _without_key_and_deadline(original)
            self._owner.request(request, *self._submissions.again(spec, original.payload, retry_of=task_id))

    async def _original(self, task_id: str) -> Original:
        with unavailable_while_away():
            original = await self._owner.store.original(self._pool, task_id)
        if original is None:
            raise TaskNotFoundError(f"there is no task {task_id}", task_id=task_id)
        state = original.document.state
        if not state.is_final or state is TaskState.SUCCEEDED:
            raise InvalidTransitionError(
                f"task {task_id} is {state}: nothing to retry", task_id=task_id, state=state.value
            )
        return original

    async def get(self, message: GetTask, _request: Request) -> TaskDocument:
        """`tasks.get`."""
        with unavailable_while_away():
            document = await self._owner.store.get(self._pool, task_id=message.task_id, key=message.key)
        if document is None:
            what = f"task {message.task_id}" if message.key is None else f"task with key {message.key!r}"
            raise TaskNotFoundError(f"there is no {what}", task_id=message.task_id, key=message.key)
        return document

    async def page(self, message: ListTasks, _request: Request) -> TaskPage:
        """`tasks.list`: cut where it would not fit into the answer."""
        with unavailable_while_away():
            page = await self._owner.store.page(self._pool, message)
        shown = [document for document, _ in fitting(page.tasks)]
        if len(shown) < len(page.tasks):
            return TaskPage(tasks=shown, cursor=Cursor.after(shown[-1]).text())
        return page

    async def why(self, message: AskWhy, _request: Request) -> Why:
        """`tasks.why`: from memory for what is live and for a dry run; else from the kept attempts."""
        pool = self._owner.machine.pool
        if message.task is not None:
            return explain_spec(pool, message.task)
        task_id = message.task_id or ""
        task = pool.tasks.get(task_id)
        if task is None or task.state.is_final:
            with unavailable_while_away():
                looked = await self._owner.store.look_up(self._pool, task_id)
            if looked.state is None:
                raise TaskNotFoundError(f"there is no task {task_id}", task_id=task_id)
            if looked.stored is None:
                return Why(state=looked.state, scores=list(looked.ended[-1].scores) if looked.ended else [])
            task = stored_task(looked.stored)
        seen = explain_task(pool, task)
        if task.state is TaskState.QUEUED and seen.position is None:
            return msgspec.structs.replace(seen, position=1 + await self._queued_before(task))
        return seen

    async def _queued_before(self, task: Task) -> int:
        placement = placement_text(task.needs, task.concurrency_key)
        with unavailable_while_away():
            return await self._owner.store.queued_before(
                self._pool, placement, task.priority.rank, task.order_ms, task.task_id
            )

    def wait(self, message: WaitTask, request: Request) -> None:
        """`tasks.wait`: a task in memory is waited for; any other one is read first, to know whether it is final."""
        # A final task in memory is about to be committed: its effects will wake the waiters.
        absent = message.task_id not in self._owner.machine.pool.tasks
        self._owner.waiters.add(message.task_id, request, message.timeout_ms, look=absent)

    def wait_many(self, message: WaitMany, request: Request) -> None:
        """`tasks.wait_many`: as `wait`, until one of them is final."""
        tasks = self._owner.machine.pool.tasks
        absent = [task_id for task_id in message.task_ids if task_id not in tasks]
        self._owner.waiters.add_many(message.task_ids, request, message.timeout_ms, look=absent)


def _without_key_and_deadline(original: Original) -> TaskSpec:
    """The specification again (protocol, section 4, `retry`): `ttl_ms` and `delay_ms` count anew."""
    spec = msgspec.json.decode(original.spec, type=TaskSpec)
    return msgspec.structs.replace(spec, key=None, deadline=None)
