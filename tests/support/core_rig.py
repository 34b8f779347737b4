"""The core of one pool with a store in memory, a clock of its own, and short ways to say what happens.

Every event is followed by a check of the core's invariants. `tell` only decides; `settle` commits what was decided and
does the effects, which here means to keep them.
"""

from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

from msgspec.structs import replace

from callboard.orchestrator.core import effects as do
from callboard.orchestrator.core import events as ev
from callboard.orchestrator.core.changes import Changes, WindowAsked
from callboard.orchestrator.core.effects import Announcement, Batch, Effect
from callboard.orchestrator.core.invariants import check
from callboard.orchestrator.core.machine import Machine
from callboard.orchestrator.core.model import Agent, Held, Task
from callboard.orchestrator.core.restore import restore
from callboard.orchestrator.core.settings import CoreSettings
from callboard.orchestrator.settling import settle
from callboard.orchestrator.store.memory import MemoryStore
from callboard.orchestrator.store.port import Committed
from callboard.schemas.agents import (
    AssignAnswer,
    Heartbeat,
    HeartbeatAnswer,
    Register,
    RegisterAnswer,
    ReportProgress,
    ReportQuery,
)
from callboard.schemas.errors import OrchestratorError
from callboard.schemas.tasks import AttemptRef, Backoff, SubmitAnswer, TaskDocument, TaskError, TaskSpec
from callboard.schemas.vocabulary import Outcome

T = TypeVar("T")
E = TypeVar("E")

START_MS = 1_700_000_000_000
LEASE_MS = 60_000
POOL = "default"


def done(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never waits, as those of the store in memory."""
    try:
        work.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    raise AssertionError("the store in memory waits for nothing")


def window_read(store: MemoryStore, asked: WindowAsked) -> ev.WindowRead:
    """What the store has of what is asked for."""
    lanes = done(store.lanes(POOL, asked.lanes))
    agenda = [] if asked.agenda is None else done(store.agenda(POOL, asked.agenda))
    return ev.WindowRead(asked=asked, lanes=tuple(map(tuple, lanes)), agenda=tuple(agenda))


class Rig:
    """A machine, its store, its time, and what it did."""

    def __init__(self, settings: CoreSettings | None = None, *, seed: int = 7) -> None:
        self.now_ms = START_MS
        self.settings = settings or CoreSettings()
        self.store = MemoryStore(key_retention_ms=LEASE_MS, clock=lambda: self.now_ms)
        self.effects: list[Effect | Announcement] = []
        self.batches: list[Batch] = []
        self.answers: dict[int, object] = {}
        self.shrunk: set[str] = set()
        self.holds_reads = False
        """Whether what is read of the window arrives only when it is told."""
        self.held_reads: list[ev.WindowRead] = []
        self._seed = seed
        self._tickets = 0
        self._tasks = 0
        self._beats = 0
        self._take_over()

    def _take_over(self) -> None:
        lease = done(self.store.acquire(POOL, holder="rig", replica="rig", lease_ms=LEASE_MS))
        assert lease is not None
        self.lease = lease
        self.machine = Machine(POOL, self.settings, epoch=lease.epoch, seed=self._seed)
        restore(self.machine, done(self.store.load(lease)), self.now_ms)
        check(self.machine.pool, shrunk=self.shrunk)

    # The loop of the owner.

    def tell(self, event: ev.Event, *, after_ms: int = 0) -> list[Effect]:
        """Something happens `after_ms` from now; what is done at once is returned."""
        self.now_ms += after_ms
        effects = self.machine.handle(event, self.now_ms)
        check(self.machine.pool, shrunk=self.shrunk)
        self._do(effects)
        return effects

    def seal(self) -> Batch:
        """Close the batch; its commit is still to come."""
        batch = self.machine.seal(self.now_ms)
        self.batches.append(batch)
        check(self.machine.pool, shrunk=self.shrunk)
        return batch

    def commit(self, batch: Batch) -> Committed:
        """Commit a sealed batch, and do its effects less those of tasks that do not exist."""
        committed = Committed()
        if batch.is_written:
            committed = done(self.store.commit(self.lease, batch.number, batch.changes, lease_ms=LEASE_MS))
            assert not committed.stale, "a guard did not match"
            self.tell(ev.BatchCommitted(number=batch.number, refused=committed.refused))
        self._do(settle(batch, (), committed).effects)
        return committed

    def settle(self) -> None:
        """Commit until nothing is decided."""
        while self.machine.has_decisions:
            self.commit(self.seal())

    def wait(self, duration_ms: int) -> None:
        """Nothing happens but time, for so long."""
        until_ms = self.now_ms + duration_ms
        while (due_ms := self.machine.next_due_ms()) is not None and due_ms <= until_ms:
            self.tell(ev.TimeAdvanced(), after_ms=max(due_ms - self.now_ms, 0))
            self.settle()
        self.now_ms = until_ms

    def read_all(self) -> None:
        """Have every waiting task read into memory."""
        pool = self.machine.pool
        while pool.absent.counts.total():
            for lane in [lane for placement in pool.queue.classes for lane in placement.lanes if lane.edge is not None]:
                pool.queue.want(lane)
            pool.absent.agenda.is_wanted = pool.absent.agenda.edge is not None
            self.tell(ev.TimeAdvanced())

    def restart(self) -> None:
        """Another owner takes over from what is committed."""
        self._take_over()
        self.settle()

    def _do(self, effects: Iterable[Effect | Announcement]) -> None:
        for effect in effects:
            self.effects.append(effect)
            if isinstance(effect, do.Answer) and isinstance(effect.ticket, int):
                self.answers[effect.ticket] = effect.message
            elif isinstance(effect, do.Refuse) and isinstance(effect.ticket, int):
                self.answers[effect.ticket] = effect.error
            elif isinstance(effect, do.LookUp):
                looked = done(self.store.look_up(POOL, effect.event.task_id))
                self.tell(_with_looked(effect.event, looked))
            elif isinstance(effect, do.ReadWindow):
                read = window_read(self.store, effect.asked)
                if self.holds_reads:
                    self.held_reads.append(read)
                else:
                    self.tell(read)

    def take(self, kind: type[E]) -> list[E]:
        """The effects of this kind since the last take; all others are forgotten."""
        found: list[E] = [effect for effect in self.effects if isinstance(effect, kind)]
        self.effects.clear()
        return found

    def ticket(self) -> int:
        """A new ticket."""
        self._tickets += 1
        return self._tickets

    def ask(self, event: ev.Event, ticket: int) -> object:
        """The answer to a request, after what it decided is committed."""
        self.tell(event)
        self.settle()
        return self.answers.get(ticket)

    # Clients.

    def submitted(self, spec: TaskSpec, *, retry_of: str | None = None) -> ev.TaskSubmitted:
        """The event of a submission under a new id."""
        self._tasks += 1
        return ev.TaskSubmitted(
            ticket=self.ticket(),
            task_id=f"00000000-0000-7000-8000-{self._tasks:012}",
            spec=spec,
            spec_json=spec.without_payload(),
            payload=bytes(spec.payload),
            digest=spec.content_digest(),
            retry_of=retry_of,
        )

    def submit(self, **fields: Any) -> str:  # noqa: ANN401 - the fields of a specification
        """Submit and settle; the task's id."""
        event = self.submitted(TaskSpec(**{"type": "work", **fields}))
        self.tell(event)
        self.settle()
        answer = self.answers[event.ticket] if isinstance(event.ticket, int) else None
        assert isinstance(answer, SubmitAnswer), answer
        return answer.task_id

    def cancel(self, task_id: str, reason: str | None = None) -> object:
        """`tasks.cancel`."""
        ticket = self.ticket()
        return self.ask(ev.CancelRequested(ticket=ticket, task_id=task_id, reason=reason), ticket)

    def finish(self, task_id: str, result: bytes = b"1") -> object:
        """`tasks.complete`, the client's."""
        ticket = self.ticket()
        return self.ask(ev.CompletionRequested(ticket=ticket, task_id=task_id, result=result), ticket)

    def answer(
        self, task_id: str, answer: bytes = b'"yes"', *, attempt: int | None = None, query: int | None = None
    ) -> object:
        """`tasks.answer`; its answer."""
        ticket = self.ticket()
        event = ev.AnswerGiven(ticket=ticket, task_id=task_id, answer=answer, attempt=attempt, query=query)
        return self.ask(event, ticket)

    # Agents.

    def agent(self, agent_id: str = "a", *, incarnation: str | None = None, **fields: Any) -> object:  # noqa: ANN401 - the fields of `register`
        """Register; the answer."""
        ticket = self.ticket()
        message = Register(incarnation=incarnation or f"{agent_id}-1", **fields)
        return self.ask(ev.AgentRegistered(ticket=ticket, agent_id=agent_id, message=message), ticket)

    def registered(self, agent_id: str = "a", **fields: Any) -> RegisterAnswer:  # noqa: ANN401 - the fields of `register`
        """Register and be taken in."""
        answer = self.agent(agent_id, **fields)
        assert isinstance(answer, RegisterAnswer), answer
        return answer

    def beat(self, agent_id: str = "a", *held: Held, seq: int | None = None, **fields: Any) -> HeartbeatAnswer:  # noqa: ANN401 - the fields of `heartbeat`
        """A heartbeat that lists `held`; its answer."""
        answer = self.beat_of(agent_id, self.pool_agent(agent_id).incarnation or "none", *held, seq=seq, **fields)
        assert isinstance(answer, HeartbeatAnswer), answer
        return answer

    def beat_of(
        self,
        agent_id: str,
        incarnation: str,
        *held: Held,
        seq: int | None = None,
        **fields: Any,  # noqa: ANN401 - the fields of `heartbeat`
    ) -> object:
        """A heartbeat of an incarnation that may not be the current one."""
        self._beats += 1
        running = [AttemptRef(task_id=task_id, attempt=attempt) for task_id, attempt in held]
        message = Heartbeat(incarnation=incarnation, seq=self._beats if seq is None else seq, running=running, **fields)
        ticket = self.ticket()
        return self.ask(ev.HeartbeatReceived(ticket=ticket, agent_id=agent_id, message=message), ticket)

    def keep_alive(self, duration_ms: int, *agent_ids: str) -> None:
        """Time passes while these agents beat, listing what they accepted."""
        until_ms = self.now_ms + duration_ms
        while self.now_ms < until_ms:
            self.wait(min(self.settings.heartbeat_interval_ms, until_ms - self.now_ms))
            for agent_id in agent_ids:
                self.beat(agent_id, *(held for held, accepted in self.pool_agent(agent_id).holds.items() if accepted))

    def accept(self, task_id: str) -> None:
        """The agent of the current attempt accepts it."""
        self.answer_offer(task_id, AssignAnswer(accepted=True))

    def decline(self, task_id: str, reason: str = "busy", retry_after_ms: int | None = None) -> None:
        """The agent of the current attempt declines it."""
        self.answer_offer(task_id, AssignAnswer(accepted=False, reason=reason, retry_after_ms=retry_after_ms))

    def answer_offer(self, task_id: str, answer: AssignAnswer) -> None:
        """The agent of the current attempt answers so."""
        task = self.task(task_id)
        self.tell(ev.OfferAnswered(agent_id=task.agent_id or "", held=task.held, answer=answer))
        self.settle()

    def undeliverable(self, task_id: str) -> None:
        """Nobody listens where the current attempt was offered."""
        task = self.task(task_id)
        self.tell(ev.OfferUndeliverable(agent_id=task.agent_id or "", held=task.held))
        self.settle()

    def reported(self, task_id: str, *, result: bytes = b"1") -> ev.ResultReported:
        """The event: the agent of the current attempt reports a result."""
        task = self.task(task_id)
        return ev.ResultReported(
            ticket=self.ticket(),
            agent_id=task.agent_id or "",
            task_id=task_id,
            attempt=task.attempt,
            incarnation=task.incarnation or "",
            result=result,
        )

    def refused(self, task_id: str, error: TaskError | None = None) -> ev.FailureReported:
        """The event: the agent of the current attempt reports a failure."""
        task = self.task(task_id)
        return ev.FailureReported(
            ticket=self.ticket(),
            agent_id=task.agent_id or "",
            task_id=task_id,
            attempt=task.attempt,
            incarnation=task.incarnation or "",
            error=error or TaskError(message="no"),
        )

    def report(self, event: ev.ResultReported | ev.FailureReported) -> object:
        """Hand in a report, perhaps for the second time; its answer."""
        ticket = self.ticket()
        return self.ask(_with_ticket(event, ticket), ticket)

    def complete(self, task_id: str, result: bytes = b"1") -> object:
        """The current attempt succeeds; the answer."""
        return self.report(self.reported(task_id, result=result))

    def fail(self, task_id: str, error: TaskError | None = None) -> object:
        """The current attempt fails; the answer."""
        return self.report(self.refused(task_id, error))

    def crash(self, agent_id: str) -> None:
        """The process of an agent dies, and a new one registers, claiming nothing."""
        count = int((self.pool_agent(agent_id).incarnation or "x-0").rpartition("-")[2])
        agent = self.pool_agent(agent_id)
        self.registered(
            agent_id, incarnation=f"{agent_id}-{count + 1}", slots=agent.slots, capabilities=sorted(agent.capabilities)
        )

    def progress(self, task_id: str, percent: int = 50) -> None:
        """The agent of the current attempt publishes progress."""
        task = self.task(task_id)
        message = ReportProgress(
            task_id=task_id, attempt=task.attempt, incarnation=task.incarnation or "", percent=percent
        )
        self.tell(
            ev.ProgressReported(agent_id=task.agent_id or "", message=message, progress=b'{"percent":%d}' % percent)
        )

    def question(self, task_id: str, query: int = 1, prompt: str = "really?", *, attempt: int | None = None) -> object:
        """The agent of the current attempt asks something; the answer to its request."""
        task, ticket = self.task(task_id), self.ticket()
        message = ReportQuery(
            task_id=task_id,
            attempt=attempt or task.attempt,
            incarnation=task.incarnation or "",
            query=query,
            prompt=prompt,
        )
        return self.ask(ev.QuestionAsked(ticket=ticket, agent_id=task.agent_id or "", message=message), ticket)

    def acknowledge(self, task_id: str, query: int = 1) -> None:
        """The agent of the current attempt has the answer to its question."""
        task = self.task(task_id)
        self.tell(ev.AnswerDelivered(agent_id=task.agent_id or "", held=task.held, query=query))

    def leave(self, agent_id: str) -> object:
        """A clean goodbye; the answer."""
        ticket = self.ticket()
        incarnation = self.pool_agent(agent_id).incarnation or ""
        return self.ask(ev.AgentLeft(ticket=ticket, agent_id=agent_id, incarnation=incarnation), ticket)

    # Operators.

    def drain(self, agent_id: str = "a", grace_ms: int | None = None) -> object:
        """`agents.drain`."""
        ticket = self.ticket()
        return self.ask(ev.DrainRequested(ticket=ticket, agent_id=agent_id, grace_ms=grace_ms), ticket)

    def resume(self, agent_id: str = "a") -> object:
        """`agents.resume`."""
        ticket = self.ticket()
        return self.ask(ev.ResumeRequested(ticket=ticket, agent_id=agent_id), ticket)

    def shut_down(self, agent_id: str = "a", grace_ms: int | None = None) -> object:
        """`agents.shutdown`."""
        ticket = self.ticket()
        return self.ask(ev.ShutdownRequested(ticket=ticket, agent_id=agent_id, grace_ms=grace_ms), ticket)

    # Looking.

    def task(self, task_id: str) -> Task:
        """A live task."""
        return self.machine.pool.tasks[task_id]

    def pool_agent(self, agent_id: str) -> Agent:
        """An agent as the core knows it."""
        return self.machine.pool.agents[agent_id]

    def document(self, task_id: str) -> TaskDocument:
        """A task as it is committed."""
        return done(self.store.documents(POOL, [task_id]))[task_id]

    def state(self, task_id: str) -> str:
        """The committed state of a task."""
        return self.document(task_id).state

    def outcomes(self, task_id: str) -> list[Outcome]:
        """How the attempts of a task that are over ended, as committed."""
        attempts = self.document(task_id).attempts or []
        return [attempt.outcome for attempt in attempts if attempt.outcome is not None]

    def last_changes(self) -> Changes:
        """What the last batch wrote."""
        return self.batches[-1].changes

    def error_code(self, answer: object) -> str:
        """The code of an answer that is an error."""
        assert isinstance(answer, OrchestratorError), answer
        return answer.code


def given_up(rig: Rig, *, backoff_ms: int = 1_000) -> tuple[str, ev.ResultReported]:
    """A task whose running attempt took too long, and the report that comes now. Its agent is drained."""
    rig.registered(slots=2)
    rig.keep_alive(16_000, "a")  # no limit runs out in the first lease of an owner
    task_id = rig.submit(run_timeout_ms=2_000, backoff=Backoff(initial_ms=backoff_ms, factor=1))
    rig.accept(task_id)
    rig.drain("a")
    report = rig.reported(task_id, result=b'"late"')
    rig.keep_alive(5_000, "a")
    assert rig.state(task_id) == ("queued" if backoff_ms == 1_000 else "deferred")
    return task_id, report


def _with_looked(
    event: ev.CancelRequested | ev.CompletionRequested | ev.AnswerGiven | ev.ResultReported | ev.FailureReported,
    looked: ev.Looked,
) -> ev.Event:
    return _replaced(event, looked=looked)


def _with_ticket(event: ev.ResultReported | ev.FailureReported, ticket: int) -> ev.Event:
    return _replaced(event, ticket=ticket, looked=None)


def _replaced(event: Any, **changed: Any) -> ev.Event:  # noqa: ANN401 - any event of the machine
    replaced: ev.Event = replace(event, **changed)
    return replaced
