"""What clients ask of tasks: submit, cancel, complete; and what time does to waiting ones."""

from msgspec.structs import replace

from callboard.orchestrator.core import window
from callboard.orchestrator.core.changes import NewTask
from callboard.orchestrator.core.effects import LookUp, Refuse, SendCancel
from callboard.orchestrator.core.events import (
    CancelRequested,
    CompletionRequested,
    TasksSubmitted,
    TaskSubmitted,
    Ticket,
)
from callboard.orchestrator.core.model import Task
from callboard.orchestrator.core.moves import end_attempt, enter, move
from callboard.orchestrator.core.pool import Pool, Submission
from callboard.orchestrator.core.specs import placement_text, task_of
from callboard.orchestrator.core.timers import Clock
from callboard.orchestrator.core.transitions import Move
from callboard.schemas.errors import (
    InvalidTransitionError,
    ResourceLimitError,
    TaskDelegationError,
    TaskNotFoundError,
)
from callboard.schemas.tasks import TaskChange
from callboard.schemas.times import to_ms
from callboard.schemas.vocabulary import (
    HELD_TASK_STATES,
    DeferralReason,
    OnUnsatisfiable,
    Outcome,
    TaskState,
)


def on_submitted(pool: Pool, event: TaskSubmitted, now_ms: int) -> None:
    """Admit a task, or refuse it; the answer is given when the batch is sealed."""
    spec = event.spec
    if pool.live_tasks >= pool.settings.max_tasks:
        limit = pool.settings.max_tasks
        pool.at_once.append(
            Refuse(event.ticket, ResourceLimitError(f"{limit} tasks wait or run", retry_after_ms=1000, limit=limit))
        )
        return
    not_before_ms = now_ms
    if spec.not_before is not None:
        not_before_ms = to_ms(spec.not_before)
    elif spec.delay_ms is not None:
        not_before_ms = now_ms + spec.delay_ms
    deadline_ms = None
    if spec.deadline is not None:
        deadline_ms = to_ms(spec.deadline)
    elif spec.ttl_ms is not None:
        deadline_ms = now_ms + spec.ttl_ms
    task = task_of(
        event.task_id,
        spec,
        created_ms=now_ms,
        order_ms=max(now_ms, not_before_ms),
        deadline_ms=deadline_ms,
    )
    satisfiable = pool.queue.is_satisfiable(task.needs)
    if not satisfiable and spec.on_unsatisfiable is OnUnsatisfiable.REJECT:
        pool.at_once.append(Refuse(event.ticket, TaskDelegationError("no known agent meets the requirements")))
        return
    if not_before_ms > now_ms:
        task.state, task.reason, task.until_ms = TaskState.DEFERRED, DeferralReason.NOT_BEFORE, not_before_ms
    pool.tasks[task.task_id] = task
    if task.concurrency_key is not None:
        pool.queue.add_limit(task.concurrency_key, task.concurrency_limit)
    pool.new[task.task_id] = _columns(event, task)
    pool.unsealed_bytes += len(event.payload)
    pool.touch(task)
    enter(pool, task, now_ms)
    if deadline_ms is not None and deadline_ms <= now_ms:
        expire(pool, task, now_ms)
    pool.submissions.append(Submission(event.ticket, task, satisfiable, is_retry=event.retry_of is not None))


def on_many_submitted(pool: Pool, event: TasksSubmitted, now_ms: int) -> None:
    """Admit or refuse each, as if they had come one by one."""
    for submission in event.submissions:
        on_submitted(pool, submission, now_ms)


def _columns(event: TaskSubmitted, task: Task) -> NewTask:
    key, scope = event.spec.key, "client"
    if event.retry_of is not None:
        key, scope = event.retry_of, "retry"
    return NewTask(
        task_id=task.task_id,
        type=task.needs.type,
        priority=task.priority.rank,
        created_ms=task.created_ms,
        order_ms=task.order_ms,
        placement=placement_text(task.needs, task.concurrency_key),
        deadline_ms=task.deadline_ms,
        spec=event.spec_json,
        payload=event.payload,
        key_scope=None if key is None else scope,
        key=key,
        digest=event.digest,
        retry_of=event.retry_of,
        concurrency_key=task.concurrency_key,
        concurrency_limit=None if task.concurrency_key is None else task.concurrency_limit,
    )


def on_deadline(pool: Pool, task: Task, now_ms: int) -> None:
    """The deadline passed: a waiting task expires on time, a held one not before its agent could be heard again."""
    if task.state in HELD_TASK_STATES and now_ms < pool.grace_until_ms:
        pool.timers.set(Clock.DEADLINE, task.task_id, pool.grace_until_ms)
    elif not task.state.is_final:
        expire(pool, task, now_ms)


def expire(pool: Pool, task: Task, now_ms: int) -> None:
    """End a task whose deadline passed."""
    _finish(pool, task, Move.EXPIRED, now_ms, reason="deadline")


def on_deferral_due(pool: Pool, task: Task, now_ms: int) -> None:
    """The wait is over."""
    if task.state is TaskState.DEFERRED:
        move(pool, task, Move.DUE, now_ms)


def on_cancel(pool: Pool, event: CancelRequested, now_ms: int) -> None:
    """Cancel at the commit, whatever the agent does."""
    _operate(pool, event, TaskState.CANCELLED, Move.CANCELLED, now_ms, reason=event.reason)


def on_completion(pool: Pool, event: CompletionRequested, now_ms: int) -> None:
    """Finish any task that is not final, with the client's result."""
    _operate(pool, event, TaskState.SUCCEEDED, Move.COMPLETED, now_ms, result=event.result)


def _operate(
    pool: Pool,
    event: CancelRequested | CompletionRequested,
    wanted: TaskState,
    what: Move,
    now_ms: int,
    *,
    reason: str | None = None,
    result: bytes | None = None,
) -> None:
    task = pool.tasks.get(event.task_id)
    if task is None:
        looked = event.looked
        if looked is None or pool.absent.departures.since(event.task_id, event.stamp):
            pool.at_once.append(LookUp(replace(event, looked=None, stamp=pool.absent.departures.count)))
            return
        if looked.stored is not None:
            task = window.adopt(pool, looked.stored, now_ms)
        elif looked.state is None:
            pool.refuse(event.ticket, TaskNotFoundError(f"there is no task {event.task_id}", task_id=event.task_id))
            return
        else:
            _answer_ended(pool, event.ticket, event.task_id, looked.state, wanted)
            return
    if task.state.is_final:
        _answer_ended(pool, event.ticket, task.task_id, task.state, wanted)
        return
    task.result = result
    _finish(pool, task, what, now_ms, reason=reason)
    pool.answer(event.ticket, TaskChange(task_id=task.task_id, state=task.state, changed=True))


def _answer_ended(pool: Pool, ticket: Ticket, task_id: str, state: TaskState, wanted: TaskState) -> None:
    if state is wanted:
        pool.answer(ticket, TaskChange(task_id=task_id, state=state, changed=False))
    else:
        pool.refuse(
            ticket, InvalidTransitionError(f"task {task_id} is {state} already", task_id=task_id, state=state.value)
        )


def _finish(pool: Pool, task: Task, what: Move, now_ms: int, *, reason: str | None) -> None:
    """End a task by a client's, an operator's or the clock's decision; an attempt in hand is called off.

    The slot stays taken until the agent no longer lists the attempt (protocol, section 3).
    """
    if task.state not in HELD_TASK_STATES:
        # What an earlier attempt failed with is no part of how the task ended.
        task.error = None
        move(pool, task, what, now_ms, reason=reason)
        return
    agent_id = task.agent_id
    end_attempt(pool, task, Outcome.CANCELLED, now_ms, what=what, reason=reason)
    if agent_id is not None:
        pool.after_commit.append(
            SendCancel(agent_id=agent_id, task_id=task.task_id, attempt=task.attempt, reason=reason or what.value)
        )
