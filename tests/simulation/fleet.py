"""The agents of one schedule: the SDK's own session, in processes that die, hang, are paused and come back.

What a handler does is in its task's type: `ok` and `slow` succeed, `flaky` fails now and then, `hang` never ends,
`ask` succeeds once it is answered, `poison` takes the process with it.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec
from tests.simulation.book import Book
from tests.simulation.network import Network
from tests.simulation.plan import Member
from tests.simulation.world import LocalClock, World

from callboard.agents.session import Session, SessionConfig
from callboard.agents.session import effects as do
from callboard.agents.session import events as av
from callboard.orchestrator.core import events as ev
from callboard.schemas.agents import (
    Assign,
    AssignAnswer,
    Heartbeat,
    HeartbeatAnswer,
    QueryRecorded,
    Recorded,
    Register,
    RegisterAnswer,
    ReportProgress,
    ReportQuery,
)
from callboard.schemas.errors import OrchestratorError, StaleAttemptError
from callboard.schemas.tasks import AttemptRef, TaskError
from callboard.schemas.vocabulary import Outcome

Answer = Callable[[object, str], None]
Serve = Callable[[Callable[[object], ev.Event], Answer | None], None]
"""Publish a request: how its event is made for whoever takes it in, and the way to answer."""
_BELIEVED: Final = (do.StartHandler, do.CancelHandler, do.Acknowledge)


class Process:
    """One incarnation: a session, its handlers, and the bus between it and the owner."""

    def __init__(self, fleet: "Fleet", member: Member, number: int, rate: float) -> None:
        self.member = member
        self.incarnation = f"{member.agent_id}-{number}"
        self.is_alive = True
        self._fleet, self._world, self._network = fleet, fleet.world, fleet.network
        self._paused: list[av.Event] | None = None
        self._alarm_ms = 0
        self._clock = LocalClock(self._world, rate)
        self._cancelled: set[AttemptRef] = set()
        self._replies: dict[str, Callable[[AssignAnswer], None]] = {}
        self._acknowledgements: dict[str, Callable[[], None]] = {}
        self._answered: set[AttemptRef] = set()
        self._over: set[AttemptRef] = set()
        """Whose handlers have ended by themselves."""
        seed = self._world.between(0, 2**32)
        self.session = Session(SessionConfig(slots=member.slots, types=member.types, seed=seed))
        self.tell(av.Started())

    def tell(self, event: av.Event) -> None:
        """Something happens to the session; a paused process hears of it later."""
        if not self.is_alive:
            return
        if self._paused is not None:
            self._paused.append(event)
            return
        known = self.session._presence.epoch
        effects = self.session.handle(event, self._clock.ms())
        if isinstance(event, av.CancelArrived) and event.epoch >= known:
            self._cancelled.add(event.ref)
        self._check_epoch(event, known, effects)
        for effect in effects:
            self._perform(effect)
        due_ms = self.session.next_due_ms()
        if due_ms is not None:
            at_ms = self._world.now_ms + self._clock.delay_ms(due_ms - self._clock.ms())
            if not self._world.now_ms < self._alarm_ms <= at_ms:
                self._alarm_ms = at_ms
                self._world.after(at_ms - self._world.now_ms, lambda: self.tell(av.TimeAdvanced()))

    def _check_epoch(self, event: av.Event, known: int, effects: list[do.Effect]) -> None:
        """No former owner is obeyed, and epochs rise."""
        if self.session._presence.epoch < known:
            self._world.fail(f"{self.incarnation} went from epoch {known} to {self.session._presence.epoch}")
        message = getattr(event, "offer", None) or getattr(event, "answer", event)
        epoch = getattr(message, "epoch", known)
        if epoch < known:
            self._world.tally["a lower epoch heard"] += 1
            if any(isinstance(effect, _BELIEVED) for effect in effects):
                self._world.fail(f"{self.incarnation} knows epoch {known}, and obeys one of {epoch}")

    def offer(self, offer: Assign, answer: Callable[[AssignAnswer], None]) -> None:
        """An offer arrives."""
        reply = str(len(self._replies))
        self._replies[reply] = answer
        self.tell(av.OfferArrived(reply, offer))

    def answer(self, arrived: av.AnswerArrived, acknowledged: Callable[[], None]) -> None:
        """An answer arrives."""
        self._acknowledgements[arrived.reply] = acknowledged
        self.tell(arrived)

    def pause(self) -> None:
        """SIGSTOP."""
        if self._paused is None:
            self._paused = []

    def proceed(self) -> None:
        """SIGCONT."""
        held, self._paused = self._paused or [], None
        for event in held:
            self.tell(event)

    # Effects.

    def _perform(self, effect: do.Effect) -> None:
        match effect:
            case do.SendRegister(call=call, running=running, draining=draining, timeout_ms=timeout_ms):
                self._register(call, running, draining=draining, patience_ms=timeout_ms)
            case do.SendHeartbeat():
                self._heartbeat(effect)
            case do.SendComplete() | do.SendFail():
                self._report(effect)
            case do.SendQuery():
                self._query(effect)
            case do.GiveAnswer():
                self._go_on(effect)
            case do.Acknowledge(reply=reply) if reply in self._acknowledgements:
                self._acknowledgements[reply]()
            case do.SendProgress(ref=ref):
                message = ReportProgress(task_id=ref.task_id, attempt=ref.attempt, incarnation=self.incarnation)
                self._say(ev.ProgressReported(agent_id=self.member.agent_id, message=message, progress=b"{}"))
            case do.SendLeave(timeout_ms=timeout_ms):
                self._ask(
                    lambda answer: ev.AgentLeft(
                        ticket=answer, agent_id=self.member.agent_id, incarnation=self.incarnation
                    ),
                    lambda _: self.tell(av.LeaveEnded()),
                    patience_ms=timeout_ms,
                )
            case do.AnswerOffer(reply=reply, answer=answer):
                self._replies[str(reply)](answer)
            case do.StartHandler(ref=ref, offer=offer):
                self._start(ref, offer)
            case do.CancelHandler(ref=ref):
                self._stop_handler(ref)
            case do.Exit():
                self._fleet.ended(self)
            case do.Acknowledge() | do.Announce() | do.AnnounceEnding():
                pass

    def _say(self, event: ev.Event) -> None:
        self._network.from_(self.member.agent_id, lambda: self._fleet.serve(lambda _: event, None))

    def _ask(
        self,
        event_of: Callable[[object], ev.Event],
        on_answer: Callable[[object | None], None],
        *,
        patience_ms: int,
    ) -> None:
        self._network.ask(
            self.member.agent_id, lambda answer: self._fleet.serve(event_of, answer), on_answer, patience_ms=patience_ms
        )

    def _register(self, call: int, running: tuple[AttemptRef, ...], *, draining: bool, patience_ms: int) -> None:
        message = Register(
            incarnation=self.incarnation,
            slots=self.member.slots,
            capabilities=list(self.member.capabilities),
            running=list(running),
            draining=draining,
        )

        def answered(answer: object | None) -> None:
            if isinstance(answer, RegisterAnswer):
                self.tell(av.Registered(call, answer))
            elif isinstance(answer, OrchestratorError):
                self.tell(av.RegisterRefused(call, answer.body()))
            else:
                self.tell(av.RegisterUnanswered(call))

        agent_id = self.member.agent_id
        self._ask(
            lambda answer: ev.AgentRegistered(ticket=answer, agent_id=agent_id, message=message),
            answered,
            patience_ms=patience_ms,
        )

    def _heartbeat(self, effect: do.SendHeartbeat) -> None:
        message = Heartbeat(
            incarnation=self.incarnation, seq=effect.seq, running=list(effect.running), draining=effect.draining
        )

        def answered(answer: object | None) -> None:
            if isinstance(answer, HeartbeatAnswer):
                self.tell(av.HeartbeatAnswered(effect.call, answer))
            elif isinstance(answer, OrchestratorError):
                self.tell(av.HeartbeatRefused(effect.call, answer.body()))
            else:
                self.tell(av.HeartbeatUnanswered(effect.call))

        agent_id = self.member.agent_id
        self._ask(
            lambda answer: ev.HeartbeatReceived(ticket=answer, agent_id=agent_id, message=message),
            answered,
            patience_ms=effect.timeout_ms,
        )

    def _report(self, effect: do.SendComplete | do.SendFail) -> None:
        ref = effect.ref
        outcome = Outcome.SUCCEEDED if isinstance(effect, do.SendComplete) else Outcome.FAILED

        def event_of(answer: object) -> ev.Event:
            about: dict[str, Any] = {
                "ticket": answer,
                "agent_id": self.member.agent_id,
                "task_id": ref.task_id,
                "attempt": ref.attempt,
                "incarnation": self.incarnation,
            }
            if isinstance(effect, do.SendComplete):
                return ev.ResultReported(**about, result=effect.result)
            return ev.FailureReported(**about, error=effect.error)

        def answered(answer: object | None) -> None:
            if isinstance(answer, Recorded):
                self._fleet.book.recorded(ref.task_id, ref.attempt, outcome)
                self.tell(av.ReportRecorded(ref))
            elif isinstance(answer, OrchestratorError):
                # A process that was replaced or stopped is refused whatever it reports, and told no state.
                if isinstance(answer, StaleAttemptError) and "state" in answer.details:
                    who = (self.member.agent_id, self.incarnation)
                    self._fleet.book.refused(ref.task_id, ref.attempt, outcome, who)
                self.tell(av.ReportRefused(ref, effect.call, answer.body()))
            else:
                self.tell(av.ReportUnanswered(ref, effect.call))

        self._ask(event_of, answered, patience_ms=effect.timeout_ms)

    def _query(self, effect: do.SendQuery) -> None:
        message = ReportQuery(
            task_id=effect.ref.task_id,
            attempt=effect.ref.attempt,
            incarnation=self.incarnation,
            query=effect.query,
            prompt=effect.prompt,
        )

        def answered(answer: object | None) -> None:
            if isinstance(answer, QueryRecorded):
                self.tell(av.QueryRecorded(effect.ref, effect.call))
            elif isinstance(answer, OrchestratorError):
                self.tell(av.QueryRefused(effect.ref, effect.call, answer.body()))
            else:
                self.tell(av.QueryUnanswered(effect.ref, effect.call))

        agent_id = self.member.agent_id
        self._ask(
            lambda answer: ev.QuestionAsked(ticket=answer, agent_id=agent_id, message=message),
            answered,
            patience_ms=effect.timeout_ms,
        )

    # Handlers.

    def _start(self, ref: AttemptRef, offer: Assign) -> None:
        world = self._world
        world.note("started", ref.task_id, ref.attempt, offer.type, "by", self.incarnation)
        self._fleet.book.ran(ref.task_id, ref.attempt, self.member.agent_id, self.incarnation)
        if ref in self._cancelled:
            world.fail(f"{ref.task_id}/{ref.attempt} was cancelled, and is started", about=ref.task_id)
        match offer.type:
            case "hang":
                return
            case "poison":
                if world.chance(0.3):
                    self.tell(av.QuestionAsked(ref, 1, "go on?"))
                world.after(world.between(1, 300), lambda: self._fleet.kill(self))
            case "flaky" if world.chance(0.4):
                error = TaskError(message="no", retryable=not world.chance(0.1))
                world.after(world.between(1, 300), lambda: self._end(ref, av.HandlerFailed(ref, error)))
            case "ask":
                world.after(world.between(1, 300), lambda: self._question(ref))
            case _:
                self._finish(ref, 6_000 if offer.type == "slow" else 300)

    def _question(self, ref: AttemptRef) -> None:
        """Ask; now and then it is done without an answer, or fails for want of one."""
        self.tell(av.QuestionAsked(ref, 1, "go on?"))
        if self._world.chance(0.1):
            self._finish(ref, 3_000)
        elif self._world.chance(0.1):
            failed = av.HandlerFailed(ref, TaskError(message="no answer"))
            self._world.after(self._world.between(1, 3_000), lambda: self._end(ref, failed))

    def _go_on(self, effect: do.GiveAnswer) -> None:
        """Answered: once, and with what was said to this attempt."""
        ref = effect.ref
        if ref in self._answered:
            self._world.fail(f"{ref.task_id}/{ref.attempt} was answered twice", about=ref.task_id)
        self._answered.add(ref)
        if isinstance(effect.answer, bytes):
            self._fleet.book.answered(ref.task_id, ref.attempt, effect.answer)
            self._finish(ref, 300)

    def _finish(self, ref: AttemptRef, longest_ms: int) -> None:
        result = msgspec.json.encode([ref.task_id, ref.attempt, self.member.agent_id, self.incarnation])
        delay_ms = self._world.between(1, longest_ms)
        self._world.after(delay_ms, lambda: self._end(ref, av.HandlerSucceeded(ref, result)))

    def _stop_handler(self, ref: AttemptRef) -> None:
        """One that does not listen at once may also end by itself before it does; one may fail of being stopped."""
        fails = self._world.chance(0.2)
        event = av.HandlerFailed(ref, TaskError(message="stopped")) if fails else av.HandlerStopped(ref)
        delay_ms = self._world.between(1, 50 if self._world.chance(0.6) else 4_000)
        self._world.after(delay_ms, lambda: self.tell(event))

    def _end(self, ref: AttemptRef, event: av.HandlerSucceeded | av.HandlerFailed) -> None:
        if ref in self._over:
            return
        self._over.add(ref)
        if isinstance(event, av.HandlerFailed) and self.is_alive:
            self._fleet.book.failures[ref.task_id] += 1
        self.tell(event)


class Fleet:
    """All agents, each with at most one process that is alive.

    Args:
        rate: draws the rate of a process's clock.
    """

    def __init__(self, world: World, network: Network, book: Book, serve: Serve, rate: Callable[[], float]) -> None:
        self.world, self.network, self.book, self.serve = world, network, book, serve
        self.processes: dict[str, Process] = {}
        self.on_ended: Callable[[Process], None] = self.start_again
        self._started: dict[str, int] = {}
        self._rate = rate

    def join(self, member: Member) -> None:
        """Start a process for `member`; an older one of it is gone."""
        old = self.processes.get(member.agent_id)
        if old is not None and old.is_alive:
            old.is_alive = False
            self.book.blame(member.agent_id)
        number = self._started[member.agent_id] = self._started.get(member.agent_id, 0) + 1
        self.book.slots[member.agent_id] = member.slots
        self.world.note("WEATHER process", f"{member.agent_id}-{number}", "starts")
        self.processes[member.agent_id] = Process(self, member, number, self._rate())

    def kill(self, process: Process) -> None:
        """SIGKILL; its supervisor starts another one."""
        if process.is_alive:
            self.world.note("WEATHER process", process.incarnation, "is killed")
            self.book.blame(process.member.agent_id)
            self.ended(process)

    def ended(self, process: Process) -> None:
        """The process is gone, one way or another."""
        process.is_alive = False
        self.on_ended(process)

    def start_again(self, process: Process) -> None:
        """A supervisor's work."""
        self.world.after(self.world.between(100, 4_000), lambda: self._again(process))

    def _again(self, process: Process) -> None:
        if self.processes[process.member.agent_id] is process:
            self.join(process.member)

    def everyone(self, event: av.Event) -> None:
        """The same happens to all."""
        for process in self.processes.values():
            process.tell(event)

    # What an owner says to agents.

    def offer(self, agent_id: str, offer: Assign, post: Callable[[ev.Event], None], *, sender: str) -> None:
        """Send `assign`; what becomes of it is posted to the owner who sent it."""
        held = (offer.task_id, offer.attempt)

        def answer(answer: AssignAnswer) -> None:
            event = ev.OfferAnswered(agent_id=agent_id, held=held, answer=answer)
            self.network.from_(agent_id, lambda: post(event))

        def arrive() -> None:
            process = self.processes.get(agent_id)
            if process is not None and process.is_alive:
                process.offer(offer, answer)
            else:
                post(ev.OfferUndeliverable(agent_id=agent_id, held=held))

        self.network.to(agent_id, arrive, sender=sender)

    def answer(
        self, agent_id: str, arrived: av.AnswerArrived, acknowledged: Callable[[], None], *, sender: str
    ) -> None:
        """Send `answer`; the acknowledgement goes the same way back."""

        def arrive() -> None:
            process = self.processes.get(agent_id)
            if process is not None:
                process.answer(arrived, lambda: self.network.from_(agent_id, acknowledged))

        self.network.to(agent_id, arrive, sender=sender)

    def cancel(self, agent_id: str, epoch: int, task_id: str, attempt: int, *, sender: str) -> None:
        """Send `cancel`."""
        self._order(agent_id, av.CancelArrived("", epoch, AttemptRef(task_id=task_id, attempt=attempt)), sender)

    def drain(self, agent_id: str, epoch: int, *, sender: str) -> None:
        """Send `drain`."""
        self._order(agent_id, av.DrainArrived("", epoch), sender)

    def shut_down(self, agent_id: str, epoch: int, grace_ms: int, *, sender: str) -> None:
        """Send `shutdown`."""
        self._order(agent_id, av.ShutdownArrived("", epoch, grace_ms), sender)

    def _order(self, agent_id: str, order: av.Event, sender: str) -> None:
        def arrive() -> None:
            process = self.processes.get(agent_id)
            if process is not None:
                process.tell(order)

        self.network.to(agent_id, arrive, sender=sender)
