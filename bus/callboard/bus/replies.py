"""Where an answer may go (protocol, section 1): a caller must not aim our answer at a subject that it may not write to.

A reply subject starts with a configured prefix, holds no wildcard, and is not one of the orchestrator's own or of NATS
itself. What is dropped is counted, and logged at 1, 2, 4, 8 … of a kind: a flood must not fill the log.
"""

from collections import Counter
from collections.abc import Callable
from enum import StrEnum
from typing import Final

import structlog

from callboard.bus.messages import BusMessage
from callboard.bus.wire import is_subject

log = structlog.get_logger("callboard.bus")

DEFAULT_REPLY_PREFIXES: Final = ("_INBOX.",)
_NATS_OWN: Final = ("$SRV", "$JS", "$SYS")


class DropReason(StrEnum):
    """Why a message was not handled."""

    NO_REPLY = "no_reply"
    BAD_REPLY = "bad_reply"


class ReplyGuard:
    """Lets through what may be answered.

    Args:
        own_root: the first tokens of our own subjects, e.g. `callboard.v1.default`.
        prefixes: what a reply subject may start with, dot included.
        on_drop: told of each message dropped, for metrics.
    """

    def __init__(
        self,
        own_root: str,
        prefixes: tuple[str, ...] = DEFAULT_REPLY_PREFIXES,
        on_drop: Callable[[DropReason], None] | None = None,
    ) -> None:
        self._prefixes = prefixes
        self._closed_roots = (own_root, *_NATS_OWN)
        self._below_them = tuple(f"{root}." for root in self._closed_roots)
        self._on_drop = on_drop
        self.dropped: Counter[DropReason] = Counter()

    def may_answer(self, message: BusMessage) -> bool:
        """Whether an answer to `message` may be sent; else it is counted as dropped."""
        if not message.reply:
            return self._drop(DropReason.NO_REPLY, message)
        return self.allows(message.reply) or self._drop(DropReason.BAD_REPLY, message)

    def allows(self, reply: str) -> bool:
        """Whether `reply` is a subject that anybody may aim our answer at."""
        return (
            reply.startswith(self._prefixes)
            and not reply.startswith(self._below_them)
            and reply not in self._closed_roots
            and is_subject(reply)
        )

    def _drop(self, reason: DropReason, message: BusMessage) -> bool:
        self.dropped[reason] += 1
        count = self.dropped[reason]
        if count & (count - 1) == 0:
            log.warning(
                "request dropped", reason=reason.value, subject=message.subject, reply=message.reply[:200], count=count
            )
        if self._on_drop is not None:
            self._on_drop(reason)
        return False
