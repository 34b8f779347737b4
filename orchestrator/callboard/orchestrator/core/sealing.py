"""Turning what was decided into one batch: coalesced rows, guarded by what the batch before wrote."""

import msgspec

from callboard.orchestrator.core import holds
from callboard.orchestrator.core.changes import AgentRow, Changes, Ending, TaskChange, TaskColumns, TaskDialogue
from callboard.orchestrator.core.effects import Announcement, Answer, Batch, Effect, PublishAgent, SendOffer
from callboard.orchestrator.core.model import Agent, Task
from callboard.orchestrator.core.pool import Pool, Submission
from callboard.schemas import tasks as messages
from callboard.schemas.vocabulary import WAITING_TASK_STATES, AgentState, TaskState


def seal(pool: Pool) -> Batch:
    """Close the batch being decided and begin the next. Without anything urgent, nothing is written."""
    changes, announcements = (_changes(pool), _announcements(pool)) if pool.is_urgent else (Changes(), ())
    is_written = bool(changes) or bool(announcements)
    number = pool.number if is_written else pool.number - 1
    effects: list[Effect] = [
        effect for effect in pool.after_commit if type(effect) is not SendOffer or _is_current(pool, effect)
    ]
    effects += (_answer(submission) for submission in pool.submissions)
    batch = Batch(
        number=number,
        changes=changes,
        announcements=announcements,
        effects=tuple(effects),
        counts=_written_counts(pool),
    )
    pool.after_commit.clear()
    pool.submissions.clear()
    if is_written:
        pool.number += 1
    return batch


def _written_counts(pool: Pool) -> dict[TaskState, int]:
    """The tasks by state, as their rows say."""
    counts = dict(pool.counts)
    # What waits with something to be told was accepted, and its row does not say so yet.
    counts[TaskState.RUNNING] -= len(pool.unsaid)
    counts[TaskState.ASSIGNED] += len(pool.unsaid)
    return counts


def _announcements(pool: Pool) -> tuple[Announcement, ...]:
    """What is told of this batch; a change of an agent is named by its place in it."""
    told = tuple(
        _named(said, f"{pool.epoch}-{pool.number}-{place}") if isinstance(said, PublishAgent) else said
        for place, said in enumerate(pool.announcements)
    )
    pool.announcements.clear()
    return told


def _named(said: PublishAgent, revision: str) -> PublishAgent:
    return PublishAgent(msgspec.structs.replace(said.event, revision=revision))


def _is_current(pool: Pool, offer: SendOffer) -> bool:
    """Whether the attempt may still be run; one that ended before it could be offered would be run for nothing."""
    task = pool.tasks.get(offer.task_id)
    return task is not None and task.state is TaskState.ASSIGNED and task.attempt == offer.attempt


def _answer(submission: Submission) -> Answer:
    task = submission.task
    if submission.is_retry:
        message: object = messages.TaskChange(task_id=task.task_id, state=task.state, changed=True)
    else:
        message = messages.SubmitAnswer(
            task_id=task.task_id, state=task.state, created=True, satisfiable=submission.satisfiable
        )
    return Answer(submission.ticket, message, task.task_id)


def _changes(pool: Pool) -> Changes:
    changes = Changes(
        tasks=tuple(_task_change(pool, task) for task in pool.dirty.values()),
        agents=tuple(agent_row(agent) for agent in pool.dirty_agents.values()),
        forgotten_agents=tuple(pool.forgotten_agents),
        pauses=tuple(what for what, paused in pool.dirty_pauses.items() if paused),
        resumes=tuple(what for what, paused in pool.dirty_pauses.items() if not paused),
        dialogues=tuple(TaskDialogue(*item) for item in pool.dirty_dialogues.items()),
        kept_holds=holds.lingering(pool),
        dropped_holds=tuple(pool.dropped_holds),
    )
    pool.dropped_holds.clear()
    pool.dirty_pauses.clear()
    pool.dirty_dialogues.clear()
    pool.dirty.clear()
    pool.dirty_agents.clear()
    pool.forgotten_agents.clear()
    pool.is_urgent = False
    pool.unsealed_bytes = 0
    return changes


def _task_change(pool: Pool, task: Task) -> TaskChange:
    change = TaskChange(
        columns=task_columns(task),
        new=pool.new.pop(task.task_id, None),
        guard=task.written,
        ended=tuple(task.unwritten_ends),
        ending=Ending(finished_ms=task.updated_ms, result=task.result, error=task.error)
        if task.state.is_final
        else None,
    )
    task.written = (task.state, task.attempt)
    task.unwritten_ends.clear()
    if task.state.is_final:
        pool.ending.setdefault(pool.number, []).append(task)
    elif task.state in WAITING_TASK_STATES:
        pool.settling.setdefault(pool.number, []).append(task)
    return change


def task_columns(task: Task) -> TaskColumns:
    """The changing columns of a task, as they stand."""
    return TaskColumns(
        task_id=task.task_id,
        state=task.state,
        version=task.version,
        attempt=task.attempt,
        agent_id=task.agent_id,
        incarnation=task.incarnation,
        assigned_ms=task.assigned_ms,
        started_ms=task.started_ms,
        updated_ms=task.updated_ms,
        until_ms=task.until_ms,
        reason=task.reason,
        spent=task.spent,
        crashes=task.crashes,
        crashed_on=task.crashed_on,
        progress=task.progress,
        scores=task.scores,
    )


def agent_row(agent: Agent) -> AgentRow:
    """An agent's row, as it stands."""
    return AgentRow(
        agent_id=agent.agent_id,
        state=AgentState.QUARANTINED if agent.state is AgentState.QUARANTINED else agent.liveness,
        incarnation=agent.incarnation,
        replaced=agent.replaced,
        role=agent.role,
        capabilities=tuple(sorted(agent.capabilities)),
        labels=agent.labels,
        metadata=agent.metadata,
        slots=agent.slots,
        version=agent.version,
        operator_drain=agent.operator_drain,
        own_drain=agent.own_drain,
        spawned=agent.spawned,
        seen_ms=agent.seen_ms,
    )
