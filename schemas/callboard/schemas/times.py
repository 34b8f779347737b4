"""Instants: integer milliseconds since the Unix epoch inside, RFC 3339 UTC with a `Z` on the wire."""

from datetime import UTC, datetime, timedelta
from functools import lru_cache

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


# What is decided in one turn has one instant.
@lru_cache(maxsize=256)
def to_instant(at_ms: int) -> datetime:
    """The wire's instant for `at_ms` milliseconds since the epoch."""
    seconds, ms = divmod(at_ms, 1000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=ms * 1000)


def to_instant_or_none(at_ms: int | None) -> datetime | None:
    """The same, `None` staying `None`."""
    return None if at_ms is None else to_instant(at_ms)


def to_ms(instant: datetime) -> int:
    """Milliseconds since the epoch of an aware instant, rounded down."""
    return (instant - _EPOCH) // _MILLISECOND
