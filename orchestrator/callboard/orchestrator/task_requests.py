"""Clients' requests about tasks: from decoded message to event, or to a read of the database.

What changes something becomes an event of the machine; what only reads goes to the store and answers itself.
"""

import msgspec

from callboard.bus.serve import Request
from callboard.orchestrator.config import SizeLimits
from callboard.orchestrator.core.events import CancelRequested, CompletionRequested, TaskSubmitted
from callboard.orchestrator.ids import TaskIds
from callboard.orchestrator.owner import RETRY_AFTER_MS, PoolOwner
from callboard.orchestrator.store.port import OfferContent, Original, StoreUnavailableError
from callboard.orchestrator.tickets import Fresh, Ticket
from callboard.schemas.codec import check_size, checked_json
from callboard.schemas.errors import InvalidTransitionError, OrchestratorError, TaskNotFoundError, UnavailableError
from callboard.schemas.tasks import (
    CancelTask,
    CompleteTask,
    GetTask,
    ListTasks,
    RetryTask,
    TaskDocument,
    TaskPage,
    TaskSpec,
    WaitTask,
)
from callboard.schemas.vocabulary import TaskState


class TaskRequests:
    """Handles `tasks.*` for one owner."""

    def __init__(self, owner: PoolOwner, limits: SizeLimits, ids: TaskIds) -> None:
        self._owner = owner
        self._limits = limits
        self._ids = ids
        self._pool = owner.lease.pool

    def submit(self, spec: TaskSpec, request: Request) -> None:
        """`tasks.submit`."""
        payload = checked_json(spec.payload, path="payload", limit=self._limits.payload_bytes)
        check_size(_text_bytes(spec), path="description and metadata", limit=self._limits.text_bytes)
        digest = b"" if spec.key is None else spec.content_digest()
        self._submit(request, spec, spec_json=spec.without_payload(), payload=payload, digest=digest)

    def _submit(
        self,
        request: Request,
        spec: TaskSpec,
        *,
        spec_json: bytes,
        payload: bytes,
        digest: bytes,
        retry_of: str | None = None,
    ) -> None:
        task_id = self._ids.next(self._owner.clock.now_ms())
        scope, key = ("client", spec.key) if retry_of is None else ("retry", retry_of)

        def submitted(ticket: Ticket) -> TaskSubmitted:
            return TaskSubmitted(
                ticket=ticket,
                task_id=task_id,
                spec=spec,
                spec_json=spec_json,
                payload=payload,
                digest=digest,
                retry_of=retry_of,
            )

        content = OfferContent(spec=spec_json, payload=payload, progress=None)
        self._owner.request(request, submitted, fresh=Fresh(content, scope, key, digest))

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

    def retry(self, message: RetryTask, request: Request) -> None:
        """`tasks.retry`: reads the original first."""
        self._owner.require_active()
        self._owner.spawn(self._retry(message.task_id, request))

    async def _retry(self, task_id: str, request: Request) -> None:
        try:
            original = await self._original(task_id)
            spec = _without_key_and_deadline(original)
            spec_json, payload = spec.without_payload(), original.payload
            self._submit(request, spec, spec_json=spec_json, payload=payload, digest=b"", retry_of=task_id)
        except OrchestratorError as error:
            request.refuse(error)

    async def _original(self, task_id: str) -> Original:
        try:
            original = await self._owner.store.original(self._pool, task_id)
        except StoreUnavailableError as error:
            raise UnavailableError(str(error), retry_after_ms=RETRY_AFTER_MS) from error
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
        try:
            document = await self._owner.store.get(self._pool, task_id=message.task_id, key=message.key)
        except StoreUnavailableError as error:
            raise UnavailableError(str(error), retry_after_ms=RETRY_AFTER_MS) from error
        if document is None:
            what = f"task {message.task_id}" if message.key is None else f"task with key {message.key!r}"
            raise TaskNotFoundError(f"there is no {what}", task_id=message.task_id, key=message.key)
        return document

    async def page(self, message: ListTasks, _request: Request) -> TaskPage:
        """`tasks.list`."""
        try:
            return await self._owner.store.page(self._pool, message)
        except StoreUnavailableError as error:
            raise UnavailableError(str(error), retry_after_ms=RETRY_AFTER_MS) from error

    def wait(self, message: WaitTask, request: Request) -> None:
        """`tasks.wait`: a live task is waited for; any other one is read."""
        task = self._owner.machine.pool.tasks.get(message.task_id)
        # A final task in memory is about to be committed: its effects will wake the waiters.
        waiting = task is not None and (message.timeout_ms > 0)
        # Zero asks how it stands, which is one read.
        self._owner.waiters.add(message.task_id, request, message.timeout_ms if waiting else 0)


def _text_bytes(spec: TaskSpec) -> int:
    size = len((spec.description or "").encode())
    return size + sum(len(key.encode()) + len(value.encode()) for key, value in (spec.metadata or {}).items())


def _without_key_and_deadline(original: Original) -> TaskSpec:
    """The specification again (protocol, section 4, `retry`): `ttl_ms` and `delay_ms` count anew."""
    spec = msgspec.json.decode(original.spec, type=TaskSpec)
    return msgspec.structs.replace(spec, key=None, deadline=None)
