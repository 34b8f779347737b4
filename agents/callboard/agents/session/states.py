"""The two tables of a session: where it stands with the orchestrator, and where each of its attempts is.

Transitions are data. Every state is present; a final one has an empty row. What a table does not hold is a bug of ours
and raises, with what happened to whom.

The third thing, what our own process wants (`Intent`), needs no table: it only ever rises.
"""

from collections.abc import Mapping
from enum import IntEnum, StrEnum
from typing import Final, TypeVar

S = TypeVar("S", bound=StrEnum)
C = TypeVar("C", bound=StrEnum)


class Phase(StrEnum):
    """Where the session stands with the orchestrator (protocol, section 3)."""

    SIGNING_IN = "signing_in"
    """Not registered, or no longer known: registering."""
    SIGNED_IN = "signed_in"
    """Registered; heartbeats are answered."""
    LEASE_LOST = "lease_lost"
    """No answer for `lease_ms`: finish, hold the results, accept nothing new, keep registering."""
    LEAVING = "leaving"
    """`leave` is on its way."""
    GONE = "gone"
    """Over."""


class PhaseCause(StrEnum):
    """What moves a session from phase to phase."""

    REGISTERED = "registered"
    FORGOTTEN = "forgotten"
    """`unknown_incarnation`."""
    LEASE_ENDED = "lease_ended"
    DEPARTED = "departed"
    """Nothing is left to do and we want to end."""
    REMOVED = "removed"
    """Replaced, or refused for good."""
    LEFT = "left"
    """`leave` is said, or there was no one to say it to."""


PHASES: Final[Mapping[Phase, Mapping[PhaseCause, Phase]]] = {
    Phase.SIGNING_IN: {
        PhaseCause.REGISTERED: Phase.SIGNED_IN,
        PhaseCause.LEASE_ENDED: Phase.LEASE_LOST,
        PhaseCause.DEPARTED: Phase.LEAVING,
        PhaseCause.REMOVED: Phase.GONE,
        PhaseCause.LEFT: Phase.GONE,
    },
    Phase.SIGNED_IN: {
        PhaseCause.FORGOTTEN: Phase.SIGNING_IN,
        PhaseCause.LEASE_ENDED: Phase.LEASE_LOST,
        PhaseCause.DEPARTED: Phase.LEAVING,
        PhaseCause.REMOVED: Phase.GONE,
        PhaseCause.LEFT: Phase.GONE,
    },
    Phase.LEASE_LOST: {
        PhaseCause.REGISTERED: Phase.SIGNED_IN,
        PhaseCause.DEPARTED: Phase.LEAVING,
        PhaseCause.REMOVED: Phase.GONE,
        PhaseCause.LEFT: Phase.GONE,
    },
    Phase.LEAVING: {PhaseCause.LEFT: Phase.GONE},
    Phase.GONE: {},
}


class AttemptState(StrEnum):
    """Where an accepted attempt is."""

    RUNNING = "running"
    CANCELLING = "cancelling"
    """The orchestrator does not want it any more; its handler has not ended yet."""
    STOPPING = "stopping"
    """We want to end; its handler has not ended yet. A result is still welcome."""
    REPORTING = "reporting"
    """Its handler has ended; the report is not answered yet."""
    RELEASED = "released"
    """Its handler ended because we stop; `leave` will give it back."""
    ENDED = "ended"
    """Nothing is left of it but the memory that it was."""


class AttemptCause(StrEnum):
    """What moves an attempt from state to state."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"
    """The handler ended because it was told to."""
    CANCELLED = "cancelled"
    """By the orchestrator."""
    STOP = "stop"
    """By our own wish to end; said once, when nothing new is taken any more."""
    SETTLED = "settled"
    """The report is recorded, or it was refused for good."""


ATTEMPTS: Final[Mapping[AttemptState, Mapping[AttemptCause, AttemptState]]] = {
    AttemptState.RUNNING: {
        AttemptCause.SUCCEEDED: AttemptState.REPORTING,
        AttemptCause.FAILED: AttemptState.REPORTING,
        AttemptCause.CANCELLED: AttemptState.CANCELLING,
        AttemptCause.STOP: AttemptState.STOPPING,
    },
    AttemptState.CANCELLING: {
        AttemptCause.SUCCEEDED: AttemptState.ENDED,
        AttemptCause.FAILED: AttemptState.ENDED,
        AttemptCause.STOPPED: AttemptState.ENDED,
        AttemptCause.CANCELLED: AttemptState.CANCELLING,
        AttemptCause.STOP: AttemptState.CANCELLING,
    },
    AttemptState.STOPPING: {
        AttemptCause.SUCCEEDED: AttemptState.REPORTING,
        AttemptCause.FAILED: AttemptState.RELEASED,
        AttemptCause.STOPPED: AttemptState.RELEASED,
        AttemptCause.CANCELLED: AttemptState.CANCELLING,
    },
    AttemptState.REPORTING: {
        AttemptCause.CANCELLED: AttemptState.ENDED,
        AttemptCause.STOP: AttemptState.REPORTING,
        AttemptCause.SETTLED: AttemptState.ENDED,
    },
    AttemptState.RELEASED: {AttemptCause.CANCELLED: AttemptState.ENDED},
    AttemptState.ENDED: {},
}

HANDLED: Final = frozenset({AttemptState.RUNNING, AttemptState.CANCELLING, AttemptState.STOPPING})
"""A handler is alive: a slot is in use."""

LISTED: Final = frozenset({AttemptState.RUNNING, AttemptState.STOPPING, AttemptState.REPORTING, AttemptState.RELEASED})
"""Ours as far as the orchestrator knows: `running` of `register` and `heartbeat` names it."""


class Intent(IntEnum):
    """What our own process wants; it only ever rises."""

    SERVE = 0
    FINISH = 1
    """Take nothing new; leave when everything is finished and recorded."""
    STOP = 2
    """Handlers are told to end; leave soon."""


def moved(table: Mapping[S, Mapping[C, S]], state: S, cause: C, who: object) -> S:
    """The state after `cause`.

    Raises:
        RuntimeError: the table has no such transition.
    """
    try:
        return table[state][cause]
    except KeyError:
        raise RuntimeError(f"{who}: no way from {state} by {cause}") from None
