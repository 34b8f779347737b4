"""The shell around the session: a thread of its own with the bus, the clock and nothing else.

The thread is what keeps heartbeats going while a handler blocks the user's event loop. Only code that holds the
interpreter's lock for longer than the lease (a C extension that does not release it) can stop them; run such work by
`ExecAgent`, in a process of its own.

Everything runs on the thread's loop and nothing there waits: an event goes into the session, its effects are started,
their answers are events again. `post` is the one door from other threads.
"""

import asyncio
import concurrent.futures
import contextlib
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import msgspec
import structlog

from callboard.agents.crossing import Crossing, new_loop
from callboard.agents.reports import Pending, Reports
from callboard.agents.session import Phase, Session, SessionConfig
from callboard.agents.session import effects as do
from callboard.agents.session import events as ev
from callboard.agents.settings import Identity
from callboard.agents.signals import leave_signals_to_others
from callboard.bus.ask import read_answer
from callboard.bus.connection import Bus, BusChange, BusMessage, BusState
from callboard.bus.options import BusOptions
from callboard.schemas.agents import (
    Assign,
    AssignAnswer,
    AssignMany,
    AssignManyAnswer,
    CancelAttempt,
    Drain,
    GiveAnswer,
    Heartbeat,
    HeartbeatAnswer,
    Leave,
    QueryRecorded,
    RegisterAnswer,
    Report,
    ReportProgress,
    ReportQuery,
    Shutdown,
)
from callboard.schemas.base import Nothing
from callboard.schemas.codec import decode, encode
from callboard.schemas.errors import (
    InvalidRequestError,
    OrchestratorError,
    OutcomeUnknownError,
    UnavailableError,
)
from callboard.schemas.tasks import AttemptRef

M = TypeVar("M")

_ASSIGN: Final = msgspec.json.Decoder(Assign)
_ASSIGN_MANY: Final = msgspec.json.Decoder(AssignMany)
_ANSWER: Final = msgspec.json.Decoder(GiveAnswer)
_CANCEL: Final = msgspec.json.Decoder(CancelAttempt)
_DRAIN: Final = msgspec.json.Decoder(Drain)
_SHUTDOWN: Final = msgspec.json.Decoder(Shutdown)


class Runtime:
    """One run of one incarnation.

    Args:
        identity: who signs in.
        options: how to reach NATS.
        types: the task types that have handlers; `None` for any.
        start_handler, cancel_handler, answer_handler: do what the effects say; called on the runtime's thread, must
            not block.
    """

    def __init__(
        self,
        identity: Identity,
        options: BusOptions,
        types: frozenset[str] | None,
        *,
        start_handler: Callable[[do.StartHandler], None],
        cancel_handler: Callable[[AttemptRef], None],
        answer_handler: Callable[[do.GiveAnswer], None],
    ) -> None:
        self._identity = identity
        self._options = options
        seed = random.SystemRandom().getrandbits(64)
        self._session = Session(SessionConfig(slots=identity.slots, types=types, seed=seed))
        self._start_handler = start_handler
        self._cancel_handler = cancel_handler
        self._answer_handler = answer_handler
        self._loop = new_loop()
        self._crossing = Crossing(self._loop)
        self._bus: Bus | None = None
        self._exit: asyncio.Future[do.Exit] = self._loop.create_future()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due_ms: int | None = None
        self._is_rearming = False
        self._log = structlog.get_logger("callboard.agents").bind(
            agent_id=identity.agent_id, pool=identity.subjects.pool
        )
        self._reports = Reports(identity.incarnation, self._loop, self._ask, self._log)
        self.registered: concurrent.futures.Future[None] = concurrent.futures.Future()
        """Done when the orchestrator has taken the agent in for the first time."""
        self.finished: concurrent.futures.Future[do.Exit] = concurrent.futures.Future()
        """Done when the session is over and the connection closed."""

    def start(self) -> None:
        """Begin, in a new thread."""
        threading.Thread(target=self._thread, name=f"callboard-{self._identity.agent_id}", daemon=True).start()

    def post(self, event: ev.Event) -> None:
        """Tell the session; from any thread, also from a signal handler. After the end nothing happens."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: the session is over
            self._crossing.put(lambda: self._apply(event))

    def _thread(self) -> None:
        leave_signals_to_others()
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                exit_ = runner.run(self._main())
        except BaseException as error:  # noqa: BLE001 - whoever awaits the end hears of it
            self.finished.set_exception(error)
        else:
            self.finished.set_result(exit_)

    async def _main(self) -> do.Exit:
        connecting = asyncio.create_task(self._connect(), name="callboard-connect")
        try:
            either: list[asyncio.Future[Any]] = [self._exit, connecting]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if connecting.done():
                connecting.result()
            return await self._exit
        finally:
            connecting.cancel()
            await asyncio.gather(connecting, return_exceptions=True)
            if self._timer is not None:
                self._timer.cancel()
            if self._bus is not None:
                await self._bus.close()

    async def _connect(self) -> None:
        self._bus = await Bus.connect(self._options, on_change=self._bus_changed)
        pattern = self._identity.subjects.to_agent(self._identity.agent_id, "*")
        await self._bus.subscribe(pattern, self._deliver)
        # Offers may follow at once: NATS must have the subscription first. If the bus is lost, `Reconnected` comes.
        with contextlib.suppress(UnavailableError):
            await self._bus.flush()
        if self._bus.connected:
            self._apply(ev.Started())

    def _bus_changed(self, change: BusChange) -> None:
        if change.state is BusState.DISCONNECTED:
            self._apply(ev.Disconnected())
        elif change.state is BusState.RECONNECTED:
            self._apply(ev.Reconnected())

    # Events in.

    def _apply(self, event: ev.Event) -> None:
        if self._exit.done():
            return
        try:
            for effect in self._session.handle(event, _now_ms()):
                self._perform(effect)
        except Exception as error:  # noqa: BLE001 - a bug of ours: end visibly instead of living on in an unknown state
            self._fail(error)
        # Once for all events of a turn: to ask the session what is due costs more than most of them.
        if not self._is_rearming:
            self._is_rearming = True
            self._loop.call_soon(self._rearm)

    def _fail(self, error: Exception) -> None:
        if not self._exit.done():
            self._exit.set_exception(error)

    def _rearm(self) -> None:
        self._is_rearming = False
        if self._exit.done():
            return
        due_ms = self._session.next_due_ms()
        if due_ms == self._timer_due_ms and self._timer is not None:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_due_ms = due_ms
        if due_ms is not None:
            delay_s = max(0, due_ms - _now_ms()) / 1000
            self._timer = self._loop.call_later(delay_s, self._time_passed)

    def _time_passed(self) -> None:
        self._timer = None
        self._apply(ev.TimeAdvanced())

    def _deliver(self, message: BusMessage) -> None:
        verb = message.subject.rpartition(".")[2]
        if not message.reply:
            self._log.warning("message without a reply subject ignored", subject=message.subject)
            return
        if verb == "assign_many":
            self._deliver_many(message)
            return
        try:
            event = _read(verb, message)
        except InvalidRequestError as error:
            self._log.warning("message not understood", subject=message.subject, error=error.message)
            if verb == "assign":
                self._send(message.reply, AssignAnswer(accepted=False, reason="invalid_request"))
            return
        if event is not None:
            self._apply(event)

    def _deliver_many(self, message: BusMessage) -> None:
        try:
            offers = decode(_ASSIGN_MANY, message.data).offers
        except InvalidRequestError as error:
            # Unanswered, they are repeated, and in the end given up.
            self._log.warning("message not understood", subject=message.subject, error=error.message)
            return
        answers: list[AssignAnswer] = []
        for offer in offers:
            self._apply(ev.OfferArrived(answers, offer))
        # Of an owner that is no more none is answered; the session answers all others at once.
        if len(answers) == len(offers):
            self._send(message.reply, AssignManyAnswer(answers=answers))

    # Effects out.

    def _perform(self, effect: do.Effect) -> None:  # noqa: C901, PLR0912 - one arm for each effect, and nothing else
        match effect:
            case do.SendRegister():
                self._register(effect)
            case do.SendHeartbeat():
                self._heartbeat(effect)
            case do.SendComplete(ref=ref, result=result):
                report = Report(task_id=ref.task_id, attempt=ref.attempt, result=msgspec.Raw(result))
                self._reports.put(Pending(ref, effect.call, report, len(result), effect.timeout_ms))
            case do.SendFail(ref=ref, error=error):
                report = Report(task_id=ref.task_id, attempt=ref.attempt, error=error)
                self._reports.put(Pending(ref, effect.call, report, len(error.message), effect.timeout_ms))
            case do.SendQuery():
                self._query(effect)
            case do.GiveAnswer():
                self._answer_handler(effect)
            case do.SendProgress():
                self._progress(effect)
            case do.SendLeave(reason=reason, timeout_ms=timeout_ms):
                self._reports.flush()
                leave = Leave(incarnation=self._identity.incarnation, reason=reason)
                self._ask("leave", leave, Nothing, timeout_ms, lambda _: [ev.LeaveEnded()], lambda _: [ev.LeaveEnded()])
            case do.AnswerOffer(reply=reply, answer=answer):
                if isinstance(reply, str):
                    self._send(reply, answer)
                else:
                    reply.append(answer)
            case do.Acknowledge(reply=reply):
                self._send(reply, Nothing())
            case do.StartHandler():
                self._start_handler(effect)
            case do.CancelHandler(ref=ref):
                self._cancel_handler(ref)
            case do.Announce(phase=phase, why=why):
                self._announce(phase, why)
            case do.AnnounceEnding(unfinished=unfinished):
                self._log.info("session ends", unfinished=unfinished, why="told to end")
            case do.Exit():
                self._exit.set_result(effect)

    def _announce(self, phase: Phase, why: str) -> None:
        level = self._log.warning if phase is Phase.LEASE_LOST else self._log.info
        level("session changed", phase=phase.value, why=why)
        if phase is Phase.SIGNED_IN and not self.registered.done():
            self.registered.set_result(None)

    def _register(self, effect: do.SendRegister) -> None:
        call = effect.call
        self._ask(
            "register",
            self._identity.register(effect.running, draining=effect.draining),
            RegisterAnswer,
            effect.timeout_ms,
            lambda answer: [ev.Registered(call, answer)],
            lambda error: [ev.RegisterRefused(call, error.body()) if error else ev.RegisterUnanswered(call)],
        )

    def _heartbeat(self, effect: do.SendHeartbeat) -> None:
        call = effect.call
        heartbeat = Heartbeat(
            incarnation=self._identity.incarnation,
            seq=effect.seq,
            running=list(effect.running),
            draining=effect.draining,
            batches=True,
        )
        self._ask(
            "heartbeat",
            heartbeat,
            HeartbeatAnswer,
            effect.timeout_ms,
            lambda answer: [ev.HeartbeatAnswered(call, answer)],
            lambda error: [ev.HeartbeatRefused(call, error.body()) if error else ev.HeartbeatUnanswered(call)],
        )

    def _query(self, effect: do.SendQuery) -> None:
        ref, call = effect.ref, effect.call
        message = ReportQuery(
            task_id=ref.task_id,
            attempt=ref.attempt,
            incarnation=self._identity.incarnation,
            query=effect.query,
            prompt=effect.prompt,
            data=msgspec.UNSET if effect.data is None else msgspec.Raw(effect.data),
        )
        self._ask(
            "query",
            message,
            QueryRecorded,
            effect.timeout_ms,
            lambda _: [ev.QueryRecorded(ref, call)],
            lambda error: [ev.QueryRefused(ref, call, error.body()) if error else ev.QueryUnanswered(ref, call)],
        )

    def _progress(self, effect: do.SendProgress) -> None:
        progress, ref = effect.progress, effect.ref
        message = ReportProgress(
            task_id=ref.task_id,
            attempt=ref.attempt,
            incarnation=self._identity.incarnation,
            percent=progress.percent,
            message=progress.message,
            data=progress.data,
        )
        self._send(self._identity.subjects.from_agent(self._identity.agent_id, "progress"), message)

    def _send(self, subject: str, message: object) -> None:
        """What is lost here is repeated by whoever needs it (an offer, an order) or was never promised (progress)."""
        try:
            if self._bus is None:
                raise UnavailableError("not connected to NATS: nothing was sent")
            self._bus.send(subject, encode(message))
        except OrchestratorError as error:
            self._log.warning("not sent", subject=subject, why=error.message)

    def _ask(  # noqa: PLR0917 - a request is what it asks and what becomes of it
        self,
        verb: str,
        message: object,
        answer: type[M],
        timeout_ms: int,
        answered: Callable[[M], Sequence[ev.Event]],
        refused: Callable[[OrchestratorError | None], Sequence[ev.Event]],
    ) -> None:
        """Send a request; its end is events. `refused` gets `None` when nobody answered."""

        def ended(how: BusMessage | OrchestratorError) -> None:
            if isinstance(how, UnavailableError | OutcomeUnknownError):
                events = refused(None)
            else:
                try:
                    events = answered(read_answer(how, answer)) if isinstance(how, BusMessage) else refused(how)
                except OrchestratorError as error:
                    events = refused(error)
            for event in events:
                self._apply(event)

        subject = self._identity.subjects.from_agent(self._identity.agent_id, verb)
        try:
            if self._bus is None:
                raise UnavailableError("not connected to NATS: nothing was sent")
            self._bus.ask(subject, encode(message), ended, timeout_s=timeout_ms / 1000)
        except OrchestratorError as error:
            # Later, as an answer would: the effects at hand are to be done first.
            self._loop.call_soon(ended, error)


def _read(verb: str, message: BusMessage) -> ev.Event | None:
    """The event of an order; `None` for a verb of a later protocol.

    Raises:
        InvalidRequestError: it is not what the verb asks for.
    """
    match verb:
        case "assign":
            return ev.OfferArrived(message.reply, decode(_ASSIGN, message.data))
        case "cancel":
            cancel = decode(_CANCEL, message.data)
            ref = AttemptRef(task_id=cancel.task_id, attempt=cancel.attempt)
            return ev.CancelArrived(message.reply, cancel.epoch, ref, cancel.reason)
        case "answer":
            answer = decode(_ANSWER, message.data)
            ref = AttemptRef(task_id=answer.task_id, attempt=answer.attempt)
            return ev.AnswerArrived(message.reply, answer.epoch, ref, answer.query, bytes(answer.answer))
        case "drain":
            return ev.DrainArrived(message.reply, decode(_DRAIN, message.data).epoch)
        case "shutdown":
            shutdown = decode(_SHUTDOWN, message.data)
            return ev.ShutdownArrived(message.reply, shutdown.epoch, shutdown.grace_ms)
        case _:
            return None


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
