"""What operators ask of a pool (protocol, section 5)."""

from enum import StrEnum

from callboard.schemas.base import Message
from callboard.schemas.names import Name


class PoolState(StrEnum):
    """Whether the pool, or a type of task in it, is given to agents."""

    ACTIVE = "active"
    PAUSED = "paused"


class PoolVerb(Message, frozen=True, kw_only=True):
    """`pool.pause`, `pool.resume`: the whole pool, or one type of task."""

    type: Name | None = None


class PoolChange(Message, frozen=True, kw_only=True):
    """The answer; `changed: false` when it was so already."""

    pool: str
    state: PoolState
    changed: bool
    type: str | None = None
