"""Where the session stands with the orchestrator: registration, heartbeats, the lease, the epoch.

- One request at a time, a `register` or a `heartbeat`; the next is due an interval after the last was *sent*.
- Silence is followed by quick repeats (back-off), so that an orchestrator that restarts is found again at once.
- The first `register` is repeated as if the lease were the shortest one: if its answer is what was lost, a lease counts
  that nobody here knows of. Only where silence goes on is more time given to each.
- The lease counts from the sending of the last request that was answered: the orchestrator's begins no earlier.
- The epoch only rises. One exception: when the lease is lost, the next `register` answer counts whatever its epoch,
  else a fleet would stay deaf for ever to an orchestrator whose database was made anew. No old owner can use it: it
  trusts its own lease for less long than an agent does, and answers no `register` after that.
"""

from collections.abc import Callable
from typing import Final

from callboard.agents.session.delays import HEARTBEAT_SPREAD, Delays
from callboard.agents.session.effects import Announce, SendHeartbeat, SendRegister
from callboard.agents.session.states import PHASES, Phase, PhaseCause, moved
from callboard.schemas.agents import HeartbeatAnswer, RegisterAnswer
from callboard.schemas.errors import ErrorBody
from callboard.schemas.tasks import AttemptRef

DEFAULT_INTERVAL_MS: Final = 5_000
LEASE_INTERVALS: Final = 3
REGISTER_TIMEOUT_MS: Final = 5_000
UNTOLD_INTERVAL_MS: Final = 1_000
"""Taken for the interval until the orchestrator has dictated one: a third of the shortest lease."""
UNTOLD_TRIES: Final = 2
"""So many are repeated at that pace; then each is given twice the time of the one before."""
SHORTEST_INTERVAL_MS: Final = 20
"""Whatever is dictated: an interval of 0 would keep the process busy with nothing else."""

_CALLING = frozenset({Phase.SIGNING_IN, Phase.SIGNED_IN, Phase.LEASE_LOST})


class Presence:
    """Registration, heartbeats, lease and epoch of one incarnation."""

    def __init__(self, delays: Delays) -> None:
        self.phase = Phase.SIGNING_IN
        self.epoch = 0
        self.interval_ms = DEFAULT_INTERVAL_MS
        self.lease_ms = LEASE_INTERVALS * DEFAULT_INTERVAL_MS
        self.operator_drains = False
        self.connected = False
        self._delays = delays
        self._due_ms = 0
        self._calls = 0
        self._seq = 0
        self._outstanding: int | None = None
        self._sent_ms = 0
        self._heard_ms: int | None = None
        self._failures = 0
        self._hurried = False
        self._registered_ms = 0

    @property
    def may_be_known(self) -> bool:
        """Whether the orchestrator can have heard of this incarnation, be it that its answer has not come yet."""
        return self._calls > 0

    def move(self, cause: PhaseCause, why: str) -> Announce:
        """To the phase that the table says."""
        self.phase = moved(PHASES, self.phase, cause, "session")
        if self.phase not in _CALLING:
            self._outstanding = None
        return Announce(self.phase, why)

    def connect(self, now_ms: int) -> None:
        """The bus is there: the next request is due now."""
        self.connected = True
        self._outstanding = None
        self._failures = 0
        self._due_ms = now_ms

    def disconnect(self) -> None:
        """The bus is away: what was asked is not answered any more."""
        self.connected = False
        self._outstanding = None

    def hurry(self, now_ms: int) -> None:
        """Something changed that the orchestrator should hear of, or we of it: do not wait for the interval."""
        self._hurried = True
        self._due_ms = now_ms

    def is_current(self, call: int) -> bool:
        """Whether `call` is the request that an answer is waited for."""
        return call == self._outstanding

    def next_due_ms(self) -> int | None:
        """When `request` or `lease_ended` has something to say."""
        times: list[int] = []
        if self.connected and self._outstanding is None and self.phase in _CALLING:
            times.append(self._due_ms)
        if self._heard_ms is not None and self.phase in {Phase.SIGNING_IN, Phase.SIGNED_IN}:
            times.append(self._heard_ms + self.lease_ms)
        return min(times, default=None)

    def lease_ended(self, now_ms: int) -> bool:
        """Whether it is time to say that the lease is lost."""
        return (
            self._heard_ms is not None
            and self.phase in {Phase.SIGNING_IN, Phase.SIGNED_IN}
            and now_ms >= self._heard_ms + self.lease_ms
        )

    def request(
        self, now_ms: int, *, running: Callable[[], tuple[AttemptRef, ...]], draining: bool
    ) -> SendRegister | SendHeartbeat | None:
        """The request that is due now, if one is; only then is `running` asked."""
        if not self.connected or self._outstanding is not None or self.phase not in _CALLING or now_ms < self._due_ms:
            return None
        self._calls += 1
        self._outstanding = self._calls
        self._sent_ms = now_ms
        self._hurried = False
        if self.phase is not Phase.SIGNED_IN:
            # Who asked an owner that then fell silent must ask its successor well within the one lease that this gives.
            return SendRegister(self._calls, running(), draining, min(REGISTER_TIMEOUT_MS, self._patience_ms()))
        self._seq += 1
        return SendHeartbeat(self._calls, self._seq, running(), draining, self.interval_ms)

    def meet(self, epoch: int, now_ms: int) -> bool:
        """Take note of the owner that sent an order; `False` when it is one that is no more.

        What was asked of its predecessor is not waited for: the new owner has not heard it, and counts our silence.
        """
        if epoch < self.epoch:
            return False
        if epoch > self.epoch and self._outstanding is not None:
            self._outstanding = None
            self._failures = 0
            self._due_ms = now_ms
        self.epoch = epoch
        return True

    def accept(self, answer: RegisterAnswer | HeartbeatAnswer, now_ms: int) -> bool:
        """Take in a current answer; `False` when it comes of an owner that is no more."""
        forgets_epoch = isinstance(answer, RegisterAnswer) and self.phase is Phase.LEASE_LOST
        if answer.epoch < self.epoch and not forgets_epoch:
            self.fail(now_ms)
            return False
        self.epoch = answer.epoch
        self.interval_ms = max(answer.heartbeat_interval_ms, SHORTEST_INTERVAL_MS)
        self.lease_ms = max(answer.lease_ms, self.interval_ms)
        self.operator_drains = answer.drain
        if isinstance(answer, RegisterAnswer):
            self._registered_ms = now_ms
        self._heard_ms = self._sent_ms
        self._outstanding = None
        self._failures = 0
        if not self._hurried:
            self._due_ms = self._sent_ms + self._delays.spread(self.interval_ms, HEARTBEAT_SPREAD)
        return True

    def forget(self, now_ms: int) -> Announce:
        """The orchestrator does not know us, though we are signed in: register, at once unless we just did."""
        just_now = now_ms < self._registered_ms + SHORTEST_INTERVAL_MS
        self._outstanding = None
        self._due_ms = now_ms + (self._delays.retry_ms(1) if just_now else 0)
        return self.move(PhaseCause.FORGOTTEN, "the orchestrator does not know this incarnation")

    def fail(self, now_ms: int, error: ErrorBody | None = None) -> None:
        """The current request was not answered, or by an error that may pass: repeat it after a back-off."""
        self._outstanding = None
        self._failures += 1
        at_least_ms = error.retry_after_ms if error else None
        # A new owner gives everyone one lease to be heard, and an interval is a third of it.
        self._due_ms = now_ms + self._delays.retry_ms(
            self._failures, at_least_ms=at_least_ms, at_most_ms=self._patience_ms()
        )

    def _patience_ms(self) -> int:
        """How long a request may go unanswered, or unrepeated."""
        if self._heard_ms is not None:
            return self.interval_ms
        doublings = min(max(self._failures - UNTOLD_TRIES, 0), 3)
        return min(UNTOLD_INTERVAL_MS << doublings, self.interval_ms)
