"""The attempts that this agent has accepted and that are not over: their handlers and their reports.

- A slot is in use while a handler is alive, cancelled ones included; `running` lists what the orchestrator counts on.
- A report is repeated, with back-off, until it is recorded or refused for good.
- A result that is refused as such becomes a `fail` of type `result_refused`; that one is refused only to be dropped.
- Attempts whose reports are unanswered hold no slot here, since the offer of the next may overtake the answer; but
  there are never more than `HELD_PER_SLOT` attempts to a slot, and so memory is bounded.
- Progress goes out at most once in `PROGRESS_INTERVAL_MS` for an attempt, the latest winning.
"""

from collections.abc import Iterator
from typing import Final

import msgspec

from callboard.agents.session.delays import Delays
from callboard.agents.session.effects import SendComplete, SendFail, SendProgress
from callboard.agents.session.states import ATTEMPTS, HANDLED, LISTED, AttemptCause, AttemptState, moved
from callboard.schemas.errors import ErrorBody
from callboard.schemas.tasks import AttemptRef, Progress, TaskError

REPORT_TIMEOUT_MS: Final = 5_000
PROGRESS_INTERVAL_MS: Final = 500
HELD_PER_SLOT: Final = 2
RESULT_REFUSED: Final = "result_refused"
_REFUSED_RESULTS = frozenset({"invalid_request", "payload_too_large"})


class Held(msgspec.Struct):
    """One accepted attempt."""

    ref: AttemptRef
    state: AttemptState = AttemptState.RUNNING
    report: bytes | TaskError | None = None
    call: int | None = None
    calls: int = 0
    failures: int = 0
    report_due_ms: int = 0
    progress: Progress | None = None
    progress_due_ms: int = 0


class Ledger:
    """All accepted attempts, by reference."""

    def __init__(self, slots: int, delays: Delays) -> None:
        self._slots = slots
        self._delays = delays
        self._held: dict[AttemptRef, Held] = {}
        self._handlers = 0
        # What the clock has to look at, apart from all else: an agent may hold hundreds of attempts.
        self._unsent: dict[AttemptRef, Held] = {}
        self._talking: dict[AttemptRef, Held] = {}

    def __iter__(self) -> Iterator[Held]:
        return iter(list(self._held.values()))

    def __len__(self) -> int:
        return len(self._held)

    def get(self, ref: AttemptRef) -> Held | None:
        """The attempt, unless it is over or was never ours."""
        return self._held.get(ref)

    @property
    def handlers(self) -> int:
        """How many handlers are alive: the slots in use."""
        return self._handlers

    @property
    def listed(self) -> tuple[AttemptRef, ...]:
        """What `register` and `heartbeat` name."""
        return tuple(held.ref for held in self._held.values() if held.state in LISTED)

    @property
    def is_full(self) -> bool:
        """Whether another attempt would be one too many."""
        return self.handlers >= self._slots or len(self._held) >= self._slots * HELD_PER_SLOT

    @property
    def has_work(self) -> bool:
        """Whether a handler is alive or a report is unanswered."""
        return any(held.state is not AttemptState.RELEASED for held in self._held.values())

    @property
    def is_winding_down(self) -> bool:
        """Whether a slot will be free as soon as a cancelled handler has noticed."""
        return any(held.state is AttemptState.CANCELLING for held in self._held.values())

    def accept(self, ref: AttemptRef) -> None:
        """A new attempt, its handler about to start."""
        self._held[ref] = Held(ref)
        self._handlers += 1

    def move(self, held: Held, cause: AttemptCause) -> None:
        """To the state that the table says; what has ended is forgotten."""
        before, held.state = held.state, moved(ATTEMPTS, held.state, cause, held.ref)
        self._handlers -= (before in HANDLED) - (held.state in HANDLED)
        if held.state is not AttemptState.REPORTING:
            self._unsent.pop(held.ref, None)
        if held.state is AttemptState.ENDED:
            del self._held[held.ref]
            self._talking.pop(held.ref, None)

    def finish(self, held: Held, cause: AttemptCause, report: bytes | TaskError | None, now_ms: int) -> None:
        """A handler has ended, with this to report if the attempt is still wanted."""
        self.move(held, cause)
        held.progress = None
        self._talking.pop(held.ref, None)
        if held.state is AttemptState.REPORTING:
            held.report = report
            self._report_at(held, now_ms)

    def _report_at(self, held: Held, due_ms: int) -> None:
        held.call = None
        held.report_due_ms = due_ms
        self._unsent[held.ref] = held

    def hurry(self, now_ms: int) -> None:
        """All reports are due now: whoever takes them is there again."""
        for held in self._held.values():
            if held.state is AttemptState.REPORTING:
                held.failures = 0
                self._report_at(held, now_ms)

    def put_off(self, held: Held, now_ms: int, error: ErrorBody | None = None) -> None:
        """The report was not answered, or by an error that may pass."""
        held.failures += 1
        at_least_ms = error.retry_after_ms if error else None
        self._report_at(held, now_ms + self._delays.retry_ms(held.failures, at_least_ms=at_least_ms))

    def refuse(self, held: Held, error: ErrorBody, now_ms: int) -> None:
        """The report was refused for good: a result becomes a failure, all else is dropped."""
        if error.code in _REFUSED_RESULTS and isinstance(held.report, bytes):
            held.report = TaskError(type=RESULT_REFUSED, message=error.message, retryable=False)
            held.failures = 0
            self._report_at(held, now_ms)
        else:
            self.move(held, AttemptCause.SETTLED)

    def note_progress(self, held: Held, progress: Progress) -> None:
        """The latest progress of a running attempt."""
        if held.state in {AttemptState.RUNNING, AttemptState.STOPPING}:
            held.progress = progress
            self._talking[held.ref] = held

    def due_reports(self, now_ms: int) -> Iterator[SendComplete | SendFail]:
        """The reports to send now, once each."""
        if not self._unsent:
            return
        for held in [held for held in self._unsent.values() if held.report_due_ms <= now_ms]:
            del self._unsent[held.ref]
            held.calls += 1
            held.call = held.calls
            if isinstance(held.report, TaskError):
                yield SendFail(held.ref, held.call, held.report, REPORT_TIMEOUT_MS)
            elif held.report is not None:
                yield SendComplete(held.ref, held.call, held.report, REPORT_TIMEOUT_MS)

    def due_progress(self, now_ms: int) -> Iterator[SendProgress]:
        """The progress to send now."""
        if not self._talking:
            return
        for held in [held for held in self._talking.values() if held.progress_due_ms <= now_ms]:
            del self._talking[held.ref]
            if held.progress is not None:
                yield SendProgress(held.ref, held.progress)
                held.progress = None
                held.progress_due_ms = now_ms + PROGRESS_INTERVAL_MS

    def next_due_ms(self) -> int | None:
        """When `due_reports` or `due_progress` has something to say."""
        times = [held.report_due_ms for held in self._unsent.values()]
        times += [held.progress_due_ms for held in self._talking.values()]
        return min(times, default=None)
