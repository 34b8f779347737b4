"""Task ids: UUID version 7 (RFC 9562), rising within a process even in one millisecond."""

import random
import secrets
from typing import Final

_COUNTER_BITS: Final = 12 + 30
_RANDOM_BITS: Final = 32


class TaskIds:
    """Makes ids; the time comes from the pool's clock, so that ids of one pool rise with it."""

    __slots__ = ("_counter", "_last_ms", "_random")

    def __init__(self) -> None:
        self._last_ms = -1
        self._counter = 0
        # Ids are unique, not secret: a system call for each would cost more than all else of it.
        self._random = random.Random(secrets.randbits(128))  # noqa: S311 - as the line above says

    def next(self, now_ms: int) -> str:
        """A new id for `now_ms`, larger than every one before.

        48 bits of time, then 42 bits that begin at random below half their range and count up (RFC 9562, section 6.2,
        method 2), then 32 random bits.
        """
        if now_ms > self._last_ms:
            self._last_ms = now_ms
            self._counter = self._random.getrandbits(_COUNTER_BITS - 1)
        else:
            self._counter += 1
        low = self._counter & ((1 << 30) - 1)
        value = self._last_ms << 80 | 0x7 << 76 | (self._counter >> 30) << 64 | 0b10 << 62
        value |= low << _RANDOM_BITS | self._random.getrandbits(_RANDOM_BITS)
        text = f"{value:032x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
