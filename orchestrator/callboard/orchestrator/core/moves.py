"""The only place that changes a task's state: along the table, with its clocks, its place and its event.

Leaving a state stops its clocks; entering one starts them. An attempt ends when its task leaves `assigned`,
`running` and `waiting_input`, and never revives.
"""

from msgspec import UNSET

from callboard.orchestrator.core import health
from callboard.orchestrator.core.effects import PublishTask
from callboard.orchestrator.core.model import EndedAttempt, Task
from callboard.orchestrator.core.pool import Pool
from callboard.orchestrator.core.retry import COSTS_AN_ATTEMPT, backoff_ms, move_after
from callboard.orchestrator.core.timers import Clock
from callboard.orchestrator.core.transitions import IllegalMoveError, Move, after
from callboard.schemas.tasks import TaskError, TaskEvent
from callboard.schemas.times import to_instant, to_instant_or_none
from callboard.schemas.vocabulary import HELD_TASK_STATES, WAITING_TASK_STATES, DeferralReason, Outcome, TaskState


def enter(pool: Pool, task: Task, now_ms: int, *, outcome: Outcome | None = None) -> None:
    """Count `task` in its state, start what that state needs, and announce it."""
    pool.counts[task.state] += 1
    if task.state in WAITING_TASK_STATES:
        # A held attempt's may have been put off; a waiting task expires on time.
        pool.watch_deadline(task)
    if task.state is TaskState.QUEUED:
        pool.queue.push(task)
    elif task.state is TaskState.DEFERRED:
        assert task.until_ms is not None  # noqa: S101 - a deferred task has its instant by construction
        pool.timers.set(Clock.DEFERRAL, task.task_id, task.until_ms)
    elif task.state.is_final:
        pool.timers.clear(Clock.DEADLINE, task.task_id)
        if task.concurrency_key is not None:
            pool.queue.remove_limit(task.concurrency_key, task.concurrency_limit)
    pool.announce(_announcement(pool, task, now_ms, outcome))


def move(
    pool: Pool,
    task: Task,
    what: Move,
    now_ms: int,
    *,
    reason: str | None = None,
    until_ms: int | None = None,
    outcome: Outcome | None = None,
) -> None:
    """Make `what` happen to `task`.

    Raises:
        IllegalMoveError: the table does not allow it: a bug of ours.
    """
    target = after(task.state, what)
    if target is None:
        story = f"attempt {task.attempt} of {task.agent_id}, version {task.version}, last end {task.last_end}"
        raise IllegalMoveError(f"task {task.task_id}", task.state, what, story)
    if task.state is TaskState.QUEUED:
        pool.queue.remove(task)
    elif task.state is TaskState.DEFERRED:
        pool.timers.clear(Clock.DEFERRAL, task.task_id)
    pool.timers.clear(Clock.OFFER, task.task_id)
    if target not in HELD_TASK_STATES or target is TaskState.WAITING_INPUT:
        pool.timers.clear(Clock.RUN_LIMIT, task.task_id)
        pool.timers.clear(Clock.PROGRESS_LIMIT, task.task_id)
    pool.counts[task.state] -= 1
    task.state = target
    task.version += 1
    task.updated_ms = now_ms
    task.reason = reason
    task.until_ms = until_ms
    if what is Move.ACCEPTED:
        pool.touch_lazily(task, now_ms, pool.settings.running_write_ms)
    else:
        pool.touch(task)
    enter(pool, task, now_ms, outcome=outcome)


def end_attempt(
    pool: Pool,
    task: Task,
    outcome: Outcome,
    now_ms: int,
    *,
    what: Move | None = None,
    error: TaskError | None = None,
    reason: str | None = None,
) -> EndedAttempt:
    """End the current attempt with `outcome`; its slot is the caller's affair.

    `what` is the task's move where the outcome alone does not decide it (a result, a cancellation, an expiry);
    else the budget does. Returns the ended attempt as it is kept.
    """
    assert task.agent_id is not None and task.incarnation is not None and task.assigned_ms is not None  # noqa: S101, PT018 - a held task has all three by construction
    if outcome in COSTS_AN_ATTEMPT:
        task.spent += 1
    if outcome is Outcome.CRASHED:
        task.crashes += 1
        if task.agent_id not in task.crashed_on:
            task.crashed_on = (*task.crashed_on, task.agent_id)
    if task.concurrency_key is not None:
        pool.ended_keyed.append((task.agent_id, *task.held))
    agent_id, incarnation, started_ms = task.agent_id, task.incarnation, task.started_ms or task.assigned_ms
    if task.started_ms is not None and outcome in {Outcome.SUCCEEDED, *COSTS_AN_ATTEMPT}:
        pool.performance.observe(
            agent_id,
            task.needs.type,
            succeeded=outcome is Outcome.SUCCEEDED,
            run_ms=max(now_ms - task.started_ms - task.waited_ms(now_ms), 0),
        )
    health.note(pool, agent_id, outcome, error, now_ms)
    what = what or move_after(task, outcome, error, pool.settings)
    until_ms = None
    if what is Move.BACKED_OFF:
        asked_ms = error.retry_after_ms if error is not None and error.retry_after_ms else 0
        until_ms = now_ms + max(backoff_ms(task.backoff, task.spent, pool.dice), asked_ms)
        reason = DeferralReason.BACKOFF
    task.error = error if what is not Move.SUCCEEDED else None
    move(pool, task, what, now_ms, reason=reason, until_ms=until_ms, outcome=outcome)
    dialogue = task.dialogue
    if dialogue is not None:
        _end_dialogue(pool, task)
    ended = EndedAttempt(
        attempt=task.attempt,
        agent_id=agent_id,
        incarnation=incarnation,
        started_ms=started_ms,
        ended_ms=now_ms,
        outcome=outcome,
        state=task.state,
        until_ms=until_ms,
        error=error,
        awaits_answer=dialogue is not None and (dialogue.is_open or dialogue.answer is not UNSET),
        scores=task.scores,
    )
    task.scores = ()
    task.last_end = ended
    task.unwritten_ends.append(ended)
    if not task.state.is_final:
        task.agent_id = task.incarnation = task.assigned_ms = task.started_ms = None
    return ended


def _end_dialogue(pool: Pool, task: Task) -> None:
    """Whatever was asked, nobody waits for the answer any more."""
    task.dialogue = None
    pool.dirty_dialogues[task.task_id] = None
    pool.timers.clear(Clock.ANSWER, task.task_id)


def _announcement(pool: Pool, task: Task, now_ms: int, outcome: Outcome | None) -> PublishTask:
    is_final = task.state.is_final
    return PublishTask(
        TaskEvent(
            task_id=task.task_id,
            pool=pool.name,
            type=task.needs.type,
            state=task.state,
            version=task.version,
            attempt=task.attempt,
            at=to_instant(now_ms),
            agent_id=task.agent_id,
            incarnation=task.incarnation,
            reason=task.reason,
            until=to_instant_or_none(task.until_ms),
            error=task.error if is_final else None,
            outcome=outcome,
            traceparent=task.traceparent,
        ),
        task.task_id,
        task.priority,
        queued_ms=max(now_ms - task.order_ms, 0) if task.state is TaskState.ASSIGNED else None,
        run_ms=max(now_ms - task.started_ms - task.waited_ms(now_ms), 0)
        if outcome is not None and task.started_ms is not None
        else None,
        total_ms=max(now_ms - task.created_ms, 0) if is_final else None,
        offered_ms=None if task.traceparent is None else _offered_ms(task, now_ms),
    )


def _offered_ms(task: Task, now_ms: int) -> int | None:
    if task.state is not TaskState.RUNNING or task.assigned_ms is None or task.started_ms != now_ms:
        return None
    return max(now_ms - task.assigned_ms, 0)
