"""Reads what a client of Postgres sends, to know when it asks for a commit.

A batch is one prepared statement in autocommit mode: its COMMIT is the `Sync` after its `Execute`. Everything before
the first message with a type (the wish for TLS, the start) has a length only.
"""

from __future__ import annotations

import struct
from typing import Final

_NO_TYPE: Final = 4
_TYPED: Final = 5
_IS_BATCH: Final = b"UPDATE pool_lease SET batch"
_SSL_REQUEST: Final = 80877103


class CommitWatch:
    """One connection's messages. Whatever is not Postgres is watched in vain and does no harm."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._started = False
        self._batches: set[bytes] = set()
        self._bound = False
        self._executed = False

    def sees_commit(self, data: bytes) -> bool:
        """Whether these bytes complete the request of a commit of a batch."""
        self._buffer += data
        seen = False
        while (message := self._next()) is not None:
            seen = self._reads(*message) or seen
        return seen

    def _next(self) -> tuple[bytes, bytes] | None:
        head = _TYPED if self._started else _NO_TYPE
        if len(self._buffer) < head:
            return None
        (length,) = struct.unpack_from("!I", self._buffer, head - _NO_TYPE)
        end = head - _NO_TYPE + length
        if len(self._buffer) < end:
            return None
        kind = bytes(self._buffer[:1]) if self._started else b""
        body = bytes(self._buffer[head:end])
        del self._buffer[:end]
        return kind, body

    def _reads(self, kind: bytes, body: bytes) -> bool:
        match kind:
            case b"":
                self._started = struct.unpack_from("!I", body)[0] != _SSL_REQUEST
            case b"P":
                name, _, rest = body.partition(b"\0")
                (self._batches.add if _IS_BATCH in rest else self._batches.discard)(name)
            case b"B":
                self._bound = body.split(b"\0", 2)[1] in self._batches
            case b"E":
                self._executed = self._bound
            case b"S":
                is_commit, self._executed, self._bound = self._executed, False, False
                return is_commit
            case b"Q":
                return body.startswith(b"COMMIT")
            case _:
                pass
        return False
