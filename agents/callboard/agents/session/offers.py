"""What the session answers to offers; the same offer, asked again, is answered the same."""

from typing import Final

from callboard.agents.session.ledger import Ledger
from callboard.agents.session.presence import Presence
from callboard.agents.session.recent import Recent
from callboard.agents.session.states import Phase
from callboard.schemas.agents import AssignAnswer
from callboard.schemas.tasks import AttemptRef
from callboard.schemas.vocabulary import DeclineReason

MEMORY_MS: Final = 30_000
"""How long an answered offer is remembered at least: well over the 7 s in which it is repeated."""
SOON_MS: Final = 100
LONGEST_PATIENCE_MS: Final = 5_000
"""A handler that does not end when it is told to must not make its agent a place of endless offers."""

ACCEPTED: Final = AssignAnswer(accepted=True)
CANCELLED: Final = AssignAnswer(accepted=False, reason="cancelled")


class Offers:
    """Answers offers, and remembers what was answered.

    Args:
        types: the task types that have a handler; `None` takes any type.
        presence: where the session stands.
        ledger: what is held; an accepted offer is entered there.
    """

    def __init__(self, types: frozenset[str] | None, presence: Presence, ledger: Ledger) -> None:
        self._types = types
        self._presence = presence
        self._ledger = ledger
        self._recent = Recent()
        self._patience_ms = SOON_MS

    def answer(self, ref: AttemptRef, task_type: str, *, draining: bool, now_ms: int) -> tuple[AssignAnswer, bool]:
        """The answer, and whether the attempt begins with it."""
        known = self._recent.answer(ref, now_ms=now_ms)
        if known is not None:
            return known, False
        if self._ledger.get(ref) is not None:
            return ACCEPTED, False
        declined = self._decline(task_type, draining=draining, now_ms=now_ms)
        if declined is not None:
            self.remember(ref, declined, now_ms=now_ms)
            return declined, False
        self._ledger.accept(ref)
        self._patience_ms = SOON_MS
        return ACCEPTED, True

    def remember(self, ref: AttemptRef, answer: AssignAnswer, *, now_ms: int) -> None:
        """From now on this is the answer to offers of `ref`."""
        keep_ms = max(self._presence.lease_ms, MEMORY_MS)
        self._recent.remember(ref, answer, now_ms=now_ms, keep_ms=keep_ms)

    def _decline(self, task_type: str, *, draining: bool, now_ms: int) -> AssignAnswer | None:
        """Why the agent cannot take anything, or this, now; `None` when it can."""
        if draining or self._presence.phase is Phase.LEAVING:
            return AssignAnswer(accepted=False, reason=DeclineReason.DRAINING)
        if self._presence.phase is Phase.LEASE_LOST:
            return AssignAnswer(accepted=False, reason="lease_lost")
        if self._presence.operator_drains:
            # Either the offer or our knowledge is old: a heartbeat tells which.
            self._presence.hurry(now_ms)
            return AssignAnswer(accepted=False, reason=DeclineReason.DRAINING)
        if self._types is not None and task_type not in self._types:
            return AssignAnswer(accepted=False, reason=DeclineReason.UNSUPPORTED)
        if self._ledger.is_full:
            return AssignAnswer(accepted=False, reason=DeclineReason.BUSY, retry_after_ms=self._soon_ms())
        return None

    def _soon_ms(self) -> int | None:
        """When a cancelled handler will have ended: soon at first, and later each time that it had not."""
        if not self._ledger.is_winding_down:
            return None
        soon_ms, self._patience_ms = self._patience_ms, min(self._patience_ms * 2, LONGEST_PATIENCE_MS)
        return soon_ms
