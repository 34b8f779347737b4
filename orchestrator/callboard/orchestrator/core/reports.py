"""What agents report of their attempts: results and failures, and what came too late.

The attempt number is the fencing token: only the current attempt, from its own agent and incarnation, is heard. A
repeat of the very report that ended an attempt gets its first answer again; anything else late is `stale_attempt`.
What of a given-up attempt is taken all the same: see `late`.
"""

from msgspec.structs import replace

from callboard.orchestrator.core import health, holds, window
from callboard.orchestrator.core.attempts import current
from callboard.orchestrator.core.effects import LookUp
from callboard.orchestrator.core.events import FailureReported, ResultReported
from callboard.orchestrator.core.late import may_succeed_late
from callboard.orchestrator.core.model import EndedAttempt, Task
from callboard.orchestrator.core.moves import end_attempt, move
from callboard.orchestrator.core.pool import Pool
from callboard.orchestrator.core.transitions import Move
from callboard.schemas.agents import Recorded
from callboard.schemas.errors import StaleAttemptError, UnknownIncarnationError
from callboard.schemas.times import to_instant_or_none
from callboard.schemas.vocabulary import Outcome


def on_result(pool: Pool, event: ResultReported, now_ms: int) -> None:
    """Record the result of the current attempt."""
    if (late := _given_up(pool, event, now_ms)) is not None:
        _adopt_result(pool, late, event, now_ms)
        return
    task = _reported(pool, event, Outcome.SUCCEEDED)
    if task is None:
        return
    task.result = event.result
    pool.unsealed_bytes += len(event.result)
    end_attempt(pool, task, Outcome.SUCCEEDED, now_ms, what=Move.SUCCEEDED)
    holds.give_back_reported(pool, pool.agents.get(event.agent_id), (event.task_id, event.attempt))
    pool.answer(event.ticket, Recorded(recorded=True))


def _given_up(pool: Pool, event: ResultReported, now_ms: int) -> Task | None:
    """The waiting task whose latest attempt this result is of, if the pool takes such results."""
    agent = pool.agents.get(event.agent_id)
    if not pool.settings.adopt_late_results or agent is None or agent.incarnation != event.incarnation:
        return None
    task = pool.tasks.get(event.task_id)
    stored = None if event.looked is None else event.looked.stored
    if task is None and stored is not None and not pool.absent.departures.since(event.task_id, event.stamp):
        task = window.adopt(pool, stored, now_ms)
    return task if task is not None and may_succeed_late(pool, agent, task, event.attempt) else None


def _adopt_result(pool: Pool, task: Task, event: ResultReported, now_ms: int) -> None:
    """Take the result. The attempt is kept twice: as it was given up, and as it succeeded after all."""
    assert task.last_end is not None  # noqa: S101 - it is that end's result
    task.result, task.error = event.result, None
    task.agent_id, task.incarnation = event.agent_id, event.incarnation
    pool.unsealed_bytes += len(event.result)
    move(pool, task, Move.ADOPTED, now_ms, reason="late result", outcome=Outcome.SUCCEEDED)
    end = task.last_end
    task.last_end = EndedAttempt(
        attempt=end.attempt,
        agent_id=end.agent_id,
        incarnation=end.incarnation,
        started_ms=end.started_ms,
        ended_ms=now_ms,
        outcome=Outcome.SUCCEEDED,
        state=task.state,
        scores=end.scores,
    )
    task.unwritten_ends.append(task.last_end)
    health.note(pool, event.agent_id, Outcome.SUCCEEDED, None, now_ms)
    holds.give_back_reported(pool, pool.agents.get(event.agent_id), (event.task_id, event.attempt))
    pool.answer(event.ticket, Recorded(recorded=True))


def on_failure(pool: Pool, event: FailureReported, now_ms: int) -> None:
    """Record the failure of the current attempt; the budget decides what becomes of the task."""
    task = _reported(pool, event, Outcome.FAILED)
    if task is None:
        return
    ended = end_attempt(pool, task, Outcome.FAILED, now_ms, error=event.error)
    holds.give_back_reported(pool, pool.agents.get(event.agent_id), (event.task_id, event.attempt))
    pool.answer(event.ticket, _recorded_failure(ended))


def _reported(pool: Pool, event: ResultReported | FailureReported, outcome: Outcome) -> Task | None:
    """The task whose current attempt this report is about; else the report is answered here and `None` returned."""
    agent = pool.agents.get(event.agent_id)
    held = (event.task_id, event.attempt)
    if agent is None or agent.incarnation != event.incarnation:
        if agent is not None and event.incarnation in agent.replaced:
            pool.refuse(event.ticket, StaleAttemptError("a newer process has this agent id", task_id=event.task_id))
        else:
            pool.refuse(event.ticket, UnknownIncarnationError())
        return None
    task = current(pool, event.agent_id, held)
    if task is not None:
        return task
    known = pool.tasks.get(event.task_id)
    first = _ending(event, known.last_end) if known is not None else None
    if first is None and event.looked is None and (known is None or event.attempt < known.attempt):
        pool.at_once.append(LookUp(replace(event, stamp=pool.absent.departures.count)))
        return None
    if first is None and event.looked is not None:
        # The last word on an attempt counts: one that was given up may have succeeded after all.
        first = next((end for end in reversed(event.looked.ended) if _ending(event, end)), None)
    holds.give_back_reported(pool, agent, held)
    if first is not None and first.outcome is outcome:
        recorded = Recorded(recorded=True) if outcome is Outcome.SUCCEEDED else _recorded_failure(first)
        pool.answer(event.ticket, recorded)
        return None
    state = known.state if known is not None else event.looked.state if event.looked is not None else None
    pool.refuse(
        event.ticket,
        StaleAttemptError(
            f"attempt {event.attempt} of task {event.task_id} is over",
            task_id=event.task_id,
            state=None if state is None else state.value,
        ),
    )
    return None


def _ending(event: ResultReported | FailureReported, end: EndedAttempt | None) -> EndedAttempt | None:
    """`end`, if this report is by the very process that had that attempt."""
    if end is None or (end.attempt, end.agent_id, end.incarnation) != (
        event.attempt,
        event.agent_id,
        event.incarnation,
    ):
        return None
    return end


def _recorded_failure(ended: EndedAttempt) -> Recorded:
    return Recorded(recorded=True, state=ended.state, until=to_instant_or_none(ended.until_ms))
