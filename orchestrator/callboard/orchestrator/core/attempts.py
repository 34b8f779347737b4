"""The life of an attempt until its agent reports: assigned, offered, accepted, limited."""

from callboard.orchestrator.core import holds
from callboard.orchestrator.core.effects import SendCancel, SendOffer
from callboard.orchestrator.core.events import (
    OfferAnswered,
    OfferUndeliverable,
    OfferUnsendable,
    ProgressReported,
)
from callboard.orchestrator.core.model import Agent, Held, Task
from callboard.orchestrator.core.moves import end_attempt, move
from callboard.orchestrator.core.pool import Pool
from callboard.orchestrator.core.presence import set_liveness
from callboard.orchestrator.core.tasks import expire
from callboard.orchestrator.core.timers import Clock
from callboard.orchestrator.core.transitions import Move
from callboard.schemas.names import MAX_DURATION_MS
from callboard.schemas.tasks import TaskError
from callboard.schemas.vocabulary import HELD_TASK_STATES, AgentState, DeclineReason, Outcome, TaskState


def place_waiting(pool: Pool, now_ms: int) -> None:
    """Assign what can be assigned, in the protocol's order, up to one batch's worth."""
    for task, placement in pool.queue.ready(pool.settings.batch_tasks, now_ms):
        if task.deadline_ms is not None and task.deadline_ms <= now_ms:
            expire(pool, task, now_ms)
            continue
        strategy = task.strategy or pool.settings.strategy
        agent, task.scores = pool.placer.choose(task, placement, pool.agents, strategy)
        assign(pool, task, agent, now_ms)


def assign(pool: Pool, task: Task, agent: Agent, now_ms: int) -> None:
    """Give `task` to `agent` as a new attempt; it is offered once that is committed."""
    task.attempt += 1
    task.agent_id, task.incarnation = agent.agent_id, agent.incarnation
    task.assigned_ms, task.started_ms = now_ms, None
    task.missed_listings = task.offers_sent = 0
    task.error = None
    holds.take(pool, agent, task, accepted=False)
    move(pool, task, Move.ASSIGNED, now_ms)
    offer(pool, task, now_ms)


def offer(pool: Pool, task: Task, now_ms: int) -> None:
    """Send the first offer of the current attempt, after the commit, and watch for its answer."""
    task.offers_sent = 1
    pool.after_commit.append(_offer(pool, task, now_ms))
    pool.timers.set(Clock.OFFER, task.task_id, now_ms + pool.settings.offer_repeats_ms[0])


def on_offer_unanswered(pool: Pool, task: Task, now_ms: int) -> None:
    """Repeat the offer, the same, on schedule; at the end of the schedule give it up as undelivered."""
    if task.state is not TaskState.ASSIGNED:
        return
    repeats = pool.settings.offer_repeats_ms
    if not pool.is_committed(task.changed_in):
        pool.timers.set(Clock.OFFER, task.task_id, now_ms + repeats[0])
        return
    if task.offers_sent > len(repeats):
        undeliver(pool, task, now_ms)
        return
    task.offers_sent += 1
    pool.at_once.append(_offer(pool, task, now_ms))
    pause_ms = repeats[min(task.offers_sent, len(repeats)) - 1]
    pool.timers.set(Clock.OFFER, task.task_id, now_ms + pause_ms)


def undeliver(pool: Pool, task: Task, now_ms: int) -> None:
    """The offer reached nobody, as far as one can tell: free for the task; the agent must show that it lives."""
    agent, held = pool.agent_of(task), task.held
    end_attempt(pool, task, Outcome.UNDELIVERED, now_ms)
    if agent is not None and agent.liveness is AgentState.ONLINE:
        set_liveness(pool, agent, AgentState.SUSPECT, now_ms, reason="offer undelivered")
    holds.give_back(pool, agent, held)


def _offer(pool: Pool, task: Task, now_ms: int) -> SendOffer:
    assert task.agent_id is not None  # noqa: S101 - an assigned task has its agent by construction
    agent = pool.agents.get(task.agent_id)
    return SendOffer(
        agent_id=task.agent_id,
        task_id=task.task_id,
        attempt=task.attempt,
        remaining_ms=None if task.deadline_ms is None else _remaining_ms(task.deadline_ms, now_ms),
        run_timeout_ms=task.run_timeout_ms,
        batches=agent is not None and agent.batches,
    )


def _remaining_ms(deadline_ms: int, now_ms: int) -> int:
    """The time that is left, as long as a message can say: a deadline may be farther away than any duration."""
    return min(max(deadline_ms - now_ms, 0), MAX_DURATION_MS)


def current(pool: Pool, agent_id: str, held: Held) -> Task | None:
    """The task whose current attempt is `held`, in the hands of `agent_id`; else `None`."""
    task = pool.tasks.get(held[0])
    if task is None or task.state not in HELD_TASK_STATES:
        return None
    return task if task.attempt == held[1] and task.agent_id == agent_id else None


def on_offer_answered(pool: Pool, event: OfferAnswered, now_ms: int) -> None:
    """The agent accepts or declines; an answer about anything but the current, unaccepted offer is late: ignored."""
    task = current(pool, event.agent_id, event.held)
    if task is None or task.state is not TaskState.ASSIGNED:
        return
    if event.answer.accepted:
        accept(pool, task, now_ms)
        return
    agent = pool.agents[event.agent_id]
    end_attempt(pool, task, Outcome.DECLINED, now_ms, reason=event.answer.reason)
    if event.answer.reason == DeclineReason.UNSUPPORTED:
        agent.unsupported.add(task.needs.type)
        pool.queue.refit(agent)
    else:
        skip_ms = event.answer.retry_after_ms
        agent.skip_until_ms = now_ms + (pool.settings.decline_skip_ms if skip_ms is None else max(skip_ms, 1))
        pool.timers.set(Clock.SKIP, agent.agent_id, agent.skip_until_ms)
    holds.give_back(pool, agent, event.held)
    pool.queue.update_room(agent)


def on_skip_over(pool: Pool, agent: Agent, _now_ms: int) -> None:
    """An agent that declined may be asked again."""
    agent.skip_until_ms = 0
    pool.queue.update_room(agent)


def on_offer_undeliverable(pool: Pool, event: OfferUndeliverable, now_ms: int) -> None:
    """Nobody listens there."""
    task = current(pool, event.agent_id, event.held)
    if task is not None and task.state is TaskState.ASSIGNED:
        undeliver(pool, task, now_ms)


def on_offer_unsendable(pool: Pool, event: OfferUnsendable, now_ms: int) -> None:
    """It is nobody's fault: free for the task, which waits for its error's time, so that it holds up nobody."""
    task = current(pool, event.agent_id, event.held)
    if task is None or task.state is not TaskState.ASSIGNED:
        return
    agent = pool.agents[event.agent_id]
    end_attempt(pool, task, Outcome.UNDELIVERED, now_ms, what=Move.BACKED_OFF, error=event.error)
    holds.give_back(pool, agent, event.held)


def accept(pool: Pool, task: Task, now_ms: int) -> None:
    """The attempt runs: from now its limits count."""
    begin(pool, task, now_ms)
    move(pool, task, Move.ACCEPTED, now_ms)
    watch_limits(pool, task, now_ms)


def begin(pool: Pool, task: Task, now_ms: int) -> None:
    """The agent has taken the attempt; its move is the caller's affair."""
    task.started_ms = now_ms
    pool.placer.ran(task)
    agent = pool.agent_of(task)
    if agent is not None and task.held in agent.holds:
        agent.holds[task.held] = True


def watch_limits(pool: Pool, task: Task, now_ms: int) -> None:
    """Start the clocks of a running attempt, or start them again: while it waited for an answer they stood still."""
    if task.run_timeout_ms is not None:
        due_ms = (task.started_ms or now_ms) + task.waited_ms(now_ms) + task.run_timeout_ms
        pool.timers.set(Clock.RUN_LIMIT, task.task_id, due_ms)
    if task.progress_timeout_ms is not None:
        pool.timers.set(Clock.PROGRESS_LIMIT, task.task_id, now_ms + task.progress_timeout_ms)


def on_limit(pool: Pool, task: Task, clock: Clock, now_ms: int) -> None:
    """A running attempt exceeded its time: it ends, and its agent is told to stop."""
    if task.state is not TaskState.RUNNING:
        return
    if now_ms < pool.grace_until_ms:
        pool.timers.set(clock, task.task_id, pool.grace_until_ms)
        return
    agent_id, attempt = task.agent_id, task.attempt
    is_run = clock is Clock.RUN_LIMIT
    what = f"ran longer than {task.run_timeout_ms} ms" if is_run else f"no progress in {task.progress_timeout_ms} ms"
    end_attempt(pool, task, Outcome.TIMED_OUT, now_ms, error=TaskError(type="timeout", message=what))
    if agent_id is not None:
        pool.after_commit.append(SendCancel(agent_id=agent_id, task_id=task.task_id, attempt=attempt, reason=what))


def on_progress(pool: Pool, event: ProgressReported, now_ms: int) -> None:
    """Keep the progress of the current attempt, written at most once a second; anything else is ignored."""
    message = event.message
    task = current(pool, event.agent_id, (message.task_id, message.attempt))
    if task is None or task.incarnation != message.incarnation:
        return
    if task.state is TaskState.ASSIGNED:
        accept(pool, task, now_ms)
    task.progress = event.progress
    if task.progress_timeout_ms is not None and task.state is TaskState.RUNNING:
        pool.timers.set(Clock.PROGRESS_LIMIT, task.task_id, now_ms + task.progress_timeout_ms)
    pool.touch_lazily(task, now_ms, pool.settings.progress_write_ms)
