"""An agent's session with a clock of its own, and short ways to say what happens to it."""

from datetime import UTC, datetime
from typing import TypeVar

from callboard.agents.session import Phase, Session, SessionConfig
from callboard.agents.session import effects as do
from callboard.agents.session import events as ev
from callboard.schemas.agents import Assign, AssignAnswer, HeartbeatAnswer, RegisterAnswer
from callboard.schemas.tasks import AttemptRef
from callboard.schemas.vocabulary import DatabaseHealth, TaskPriority

LEASE_MS = 3_000
INTERVAL_MS = 1_000
INSTANT = datetime(2026, 1, 1, tzinfo=UTC)

E = TypeVar("E", bound=do.Effect)


def ref(number: int, attempt: int = 1) -> AttemptRef:
    return AttemptRef(task_id=f"00000000-0000-7000-8000-{number:012d}", attempt=attempt)


def offer(which: AttemptRef, *, epoch: int = 1, task_type: str = "review") -> Assign:
    return Assign(
        epoch=epoch,
        task_id=which.task_id,
        attempt=which.attempt,
        type=task_type,
        priority=TaskPriority.NORMAL,
        metadata={},
    )


def register_answer(
    *, epoch: int = 1, cancel: tuple[AttemptRef, ...] = (), drain: bool = False, interval_ms: int = INTERVAL_MS
) -> RegisterAnswer:
    return RegisterAnswer(
        agent_id="a",
        pool="default",
        epoch=epoch,
        heartbeat_interval_ms=interval_ms,
        lease_ms=LEASE_MS,
        cancel=list(cancel),
        drain=drain,
        server_time=INSTANT,
    )


def heartbeat_answer(*, epoch: int = 1, cancel: tuple[AttemptRef, ...] = (), drain: bool = False) -> HeartbeatAnswer:
    return HeartbeatAnswer(
        epoch=epoch,
        heartbeat_interval_ms=INTERVAL_MS,
        lease_ms=LEASE_MS,
        cancel=list(cancel),
        drain=drain,
        database=DatabaseHealth.OK,
    )


class Rig:
    """The session, the time, and the effects of the last thing that happened."""

    def __init__(self, *, slots: int = 2, types: frozenset[str] | None = frozenset({"review"}), seed: int = 7) -> None:
        self.session = Session(SessionConfig(slots=slots, types=types, seed=seed))
        self.now_ms = 1_000
        self.effects: list[do.Effect] = []

    def tell(self, event: ev.Event, *, after_ms: int = 0) -> list[do.Effect]:
        """Something happens `after_ms` from now."""
        self.now_ms += after_ms
        self.effects = self.session.handle(event, self.now_ms)
        return self.effects

    def wait(self) -> list[do.Effect]:
        """Nothing happens until the session wants to be told of the time."""
        due_ms = self.session.next_due_ms()
        assert due_ms is not None, "the session waits for nothing"
        return self.tell(ev.TimeAdvanced(), after_ms=max(0, due_ms - self.now_ms))

    def only(self, kind: type[E]) -> E:
        """The one effect of this kind among the last ones."""
        found = self.all(kind)
        assert len(found) == 1, f"{kind.__name__} among {self.effects}"
        return found[0]

    def all(self, kind: type[E]) -> list[E]:
        return [effect for effect in self.effects if isinstance(effect, kind)]

    def registered(self, *, epoch: int = 1) -> "Rig":
        """Start and be taken in."""
        self.tell(ev.Started())
        self.tell(ev.Registered(self.only(do.SendRegister).call, register_answer(epoch=epoch)))
        return self

    def holding(self, *refs: AttemptRef) -> "Rig":
        """Take these."""
        for which in refs:
            assert self.offered(which).accepted
        return self

    def offered(self, which: AttemptRef, *, epoch: int = 1, task_type: str = "review") -> AssignAnswer:
        """The answer to an offer."""
        self.tell(ev.OfferArrived("reply", offer(which, epoch=epoch, task_type=task_type)))
        return self.only(do.AnswerOffer).answer

    def beat(self) -> do.SendHeartbeat:
        """Wait for the next heartbeat; it is not answered yet."""
        while not self.all(do.SendHeartbeat):
            self.wait()
        return self.only(do.SendHeartbeat)

    def lose_lease(self) -> "Rig":
        """Silence until the lease is lost."""
        self.tell(ev.Disconnected())
        while Phase.LEASE_LOST is not self.session.phase:
            self.wait()
        return self
