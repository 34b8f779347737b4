"""The memory of offers that were answered and are over: the same offer again gets the same answer.

Kept for `keep_ms` each and at most `LIMIT` of them, the oldest going first: offers are repeated within seconds
(protocol, section 3), and a cancelled attempt must be declined for one lease.
"""

from collections import OrderedDict
from typing import Final

from callboard.schemas.agents import AssignAnswer
from callboard.schemas.tasks import AttemptRef

LIMIT: Final = 4096


class Recent:
    """Answers by attempt, bounded in time and number."""

    def __init__(self) -> None:
        self._answers: OrderedDict[AttemptRef, tuple[AssignAnswer, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._answers)

    def remember(self, ref: AttemptRef, answer: AssignAnswer, *, now_ms: int, keep_ms: int) -> None:
        """Answer `ref` with `answer` until `now_ms + keep_ms`; a later answer replaces an earlier one."""
        self._answers.pop(ref, None)
        self._answers[ref] = (answer, now_ms + keep_ms)
        while len(self._answers) > LIMIT or next(iter(self._answers.values()))[1] <= now_ms:
            self._answers.popitem(last=False)

    def answer(self, ref: AttemptRef, *, now_ms: int) -> AssignAnswer | None:
        """What was answered, `None` when it is forgotten or was never asked."""
        known = self._answers.get(ref)
        return known[0] if known and known[1] > now_ms else None
