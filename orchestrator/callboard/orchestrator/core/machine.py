"""The machine of one pool: events in, batches out.

The shell's loop: `handle` events as they come and do at once what they return. Whenever no commit is open, `seal`,
commit the batch's changes, hand in `BatchCommitted`, and do the batch's effects. While one batch commits, the next is
being decided.
"""

from collections.abc import Callable
from typing import Any, Final

from callboard.orchestrator.core import (
    attempts,
    dialogues,
    health,
    holds,
    liveness,
    operators,
    pausing,
    reports,
    tasks,
    window,
)
from callboard.orchestrator.core.effects import Batch, Effect, ReadWindow
from callboard.orchestrator.core.events import (
    AgentLeft,
    AgentRegistered,
    AgentSpawned,
    AnswerDelivered,
    AnswerGiven,
    BatchCommitted,
    CancelRequested,
    CompletionRequested,
    DrainRequested,
    Event,
    FailureReported,
    HeartbeatReceived,
    ObservationResumed,
    OfferAnswered,
    OfferUndeliverable,
    OfferUnsendable,
    PoolPauseRequested,
    ProgressReported,
    QuestionAsked,
    ResultReported,
    ResumeRequested,
    ShutdownRequested,
    SpawnAbandoned,
    TasksSubmitted,
    TaskSubmitted,
    TimeAdvanced,
    WindowRead,
)
from callboard.orchestrator.core.pool import Pool
from callboard.orchestrator.core.sealing import seal
from callboard.orchestrator.core.settings import CoreSettings
from callboard.orchestrator.core.timers import Clock
from callboard.schemas.vocabulary import TaskState

HANDLERS: Final[dict[type[Any], Callable[[Pool, Any, int], None]]] = {
    TaskSubmitted: tasks.on_submitted,
    TasksSubmitted: tasks.on_many_submitted,
    CancelRequested: tasks.on_cancel,
    CompletionRequested: tasks.on_completion,
    AnswerGiven: dialogues.on_answer,
    AgentSpawned: liveness.on_spawned,
    SpawnAbandoned: liveness.on_spawn_abandoned,
    AgentRegistered: liveness.on_registered,
    HeartbeatReceived: liveness.on_heartbeat,
    AgentLeft: liveness.on_left,
    ResultReported: reports.on_result,
    FailureReported: reports.on_failure,
    ProgressReported: attempts.on_progress,
    QuestionAsked: dialogues.on_asked,
    AnswerDelivered: dialogues.on_delivered,
    OfferAnswered: attempts.on_offer_answered,
    OfferUndeliverable: attempts.on_offer_undeliverable,
    OfferUnsendable: attempts.on_offer_unsendable,
    DrainRequested: operators.on_drain,
    ResumeRequested: operators.on_resume,
    ShutdownRequested: operators.on_shutdown,
    PoolPauseRequested: pausing.on_pause,
    WindowRead: window.on_read,
}


class Machine:
    """One pool's decisions. Not thread-safe; one owner drives it."""

    def __init__(self, name: str, settings: CoreSettings, *, epoch: int, seed: int) -> None:
        self.pool = Pool(name, settings, epoch=epoch, seed=seed)

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        """Take in one event at `now_ms`, milliseconds since the epoch; `now_ms` never decreases.

        Returns the effects that rest on committed state, to be done at once.

        Raises:
            IllegalMoveError: a bug of ours, with the story; the pool must be reloaded.
        """
        if isinstance(event, TimeAdvanced):
            self._advance(now_ms)
        elif isinstance(event, BatchCommitted):
            self._committed(event, now_ms)
        elif isinstance(event, ObservationResumed):
            self._resume(now_ms)
        else:
            HANDLERS[type(event)](self.pool, event, now_ms)
        self._ask(self.pool.at_once)
        effects = self.pool.at_once
        if effects:
            self.pool.at_once = []
        return effects

    def seal(self, now_ms: int) -> Batch:
        """Place what can be placed and close the batch. No other batch may be open."""
        attempts.place_waiting(self.pool, now_ms)
        self._ask(self.pool.after_commit)
        return seal(self.pool)

    def next_due_ms(self) -> int | None:
        """When `TimeAdvanced` is wanted next."""
        return self.pool.timers.next_due()

    @property
    def has_decisions(self) -> bool:
        """Whether sealing would bring anything."""
        pool = self.pool
        return pool.is_urgent or bool(pool.after_commit) or pool.queue.has_ready

    @property
    def unsealed_bytes(self) -> int:
        """How many bytes of payloads and results the next batch would write."""
        return self.pool.unsealed_bytes

    @property
    def unsealed_tasks(self) -> int:
        """How many tasks the next batch would write."""
        return len(self.pool.dirty)

    def _ask(self, effects: list[Effect]) -> None:
        asked = window.wanted_read(self.pool)
        if asked is not None:
            effects.append(ReadWindow(asked))

    def _advance(self, now_ms: int) -> None:
        pool = self.pool
        for clock, subject in pool.timers.pop_due(now_ms):
            if clock is Clock.FLUSH:
                pool.flush(now_ms)
            elif clock is Clock.AGENDA:
                window.on_agenda_due(pool)
            elif clock in _AGENT_CLOCKS:
                agent = pool.agents.get(subject)
                if agent is not None:
                    _AGENT_CLOCKS[clock](pool, agent, now_ms)
            else:
                task = pool.tasks.get(subject)
                if task is not None:
                    _TASK_CLOCKS[clock](pool, task, now_ms)

    def _committed(self, event: BatchCommitted, now_ms: int) -> None:
        pool = self.pool
        pool.committed = event.number
        for task_id in event.refused:
            self._undo(task_id)
        for task in pool.ending.pop(event.number, ()):
            pool.tasks.pop(task.task_id, None)
            pool.absent.departures.note(task.task_id)
        window.settle(pool, pool.settling.pop(event.number, []), now_ms)

    def _undo(self, task_id: str) -> None:
        """A new task's key belongs to another one: it never existed, and what it took is given back."""
        pool = self.pool
        task = pool.tasks.pop(task_id, None)
        if task is None:
            return
        if task.state is TaskState.QUEUED:
            pool.queue.remove(task)
        holds.give_back(pool, pool.agent_of(task), task.held)
        if task.concurrency_key is not None and not task.state.is_final:
            pool.queue.remove_limit(task.concurrency_key, task.concurrency_limit)
        pool.counts[task.state] -= 1
        pool.dirty.pop(task_id, None)
        pool.lazy.discard(task_id)
        pool.unsaid.pop(task_id, None)
        pool.after_commit = [effect for effect in pool.after_commit if getattr(effect, "task_id", None) != task_id]
        pool.announcements = [said for said in pool.announcements if getattr(said, "task_id", None) != task_id]
        for clock in _TASK_CLOCKS:
            pool.timers.clear(clock, task_id)

    def _resume(self, now_ms: int) -> None:
        """Nothing was heard for a while: leases begin anew, and offers are made again."""
        pool = self.pool
        pool.observing_from_ms = now_ms
        for task in pool.tasks.values():
            if task.state is TaskState.ASSIGNED and pool.is_committed(task.changed_in):
                attempts.offer(pool, task, now_ms)


_TASK_CLOCKS: Final[dict[Clock, Callable[[Pool, Any, int], None]]] = {
    Clock.DEFERRAL: tasks.on_deferral_due,
    Clock.DEADLINE: tasks.on_deadline,
    Clock.RUN_LIMIT: lambda pool, task, now_ms: attempts.on_limit(pool, task, Clock.RUN_LIMIT, now_ms),
    Clock.PROGRESS_LIMIT: lambda pool, task, now_ms: attempts.on_limit(pool, task, Clock.PROGRESS_LIMIT, now_ms),
    Clock.OFFER: attempts.on_offer_unanswered,
    Clock.ANSWER: dialogues.on_unacknowledged,
}
_AGENT_CLOCKS: Final[dict[Clock, Callable[[Pool, Any, int], None]]] = {
    Clock.LIVENESS: liveness.on_silence,
    Clock.SKIP: attempts.on_skip_over,
    Clock.GRACE: operators.on_grace_over,
    Clock.PROBE: lambda pool, agent, _now_ms: health.probe(pool, agent),
    Clock.FORGET: lambda pool, agent, _now_ms: liveness.on_forget(pool, agent),
}
