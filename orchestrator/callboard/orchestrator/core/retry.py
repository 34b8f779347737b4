"""What an ended attempt costs its task, and what becomes of the task (protocol, section 3, table of outcomes).

`failed`, `timed_out` and `crashed` use up one of `max_attempts`; `declined`, `undelivered` and `released` are free.
A task that crashed 3 times on 2 different agents is poison: it is quarantined, whatever attempts are left.
Back-off is full jitter: a random delay below an exponentially growing, capped bound. A crash is not backed off: the
lease that ran out, or the restart that replaced the agent, was the delay already.
"""

from typing import Final

from callboard.orchestrator.core.dice import Dice
from callboard.orchestrator.core.model import Task
from callboard.orchestrator.core.settings import CoreSettings
from callboard.orchestrator.core.transitions import Move
from callboard.schemas.tasks import Backoff, TaskError
from callboard.schemas.vocabulary import Outcome

COSTS_AN_ATTEMPT: Final = frozenset({Outcome.FAILED, Outcome.TIMED_OUT, Outcome.CRASHED})


def move_after(task: Task, outcome: Outcome, error: TaskError | None, settings: CoreSettings) -> Move:
    """The move of a task whose attempt just ended with `outcome`, its counters being up to date."""
    if outcome not in COSTS_AN_ATTEMPT:
        return Move.REQUEUED
    if task.crashes >= settings.quarantine_crashes and len(task.crashed_on) >= settings.quarantine_agents:
        return Move.POISONED
    given_up = error is not None and error.retryable is False
    if given_up or task.spent >= task.max_attempts:
        return Move.EXHAUSTED
    return Move.REQUEUED if outcome is Outcome.CRASHED else Move.BACKED_OFF


def backoff_ms(backoff: Backoff, spent: int, dice: Dice) -> int:
    """A delay in ms before the next attempt, after `spent` (at least 1) that counted."""
    # The exponent is capped: 100.0 ** 200 overflows a float, and no cap on the delay is ten years times ten.
    bound = min(backoff.initial_ms * backoff.factor ** min(spent - 1, 64), backoff.max_ms)
    return dice.below(int(bound) + 1)
