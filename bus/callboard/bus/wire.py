"""The bytes of the NATS client protocol: commands out, frames in; no I/O.

nats-py's own parser splits control lines at any ASCII white space, so one reply subject holding a vertical tab, which
servers let through, breaks the connection of everyone who listens. Servers separate fields by single spaces; so do we.
What goes out is checked first: a server closes the connection over a line that is too long, and white space in a
subject would start another command.
"""

import re
from collections.abc import Callable, Mapping
from typing import Final

from callboard.schemas.errors import InvalidRequestError

SUBJECT_BYTES: Final = 1024
"""Longest subject sent: two of them and the counts stay below the server's `max_control_line` of 4,096 bytes."""

_CRLF: Final = b"\r\n"
_VERSION: Final = b"NATS/1.0"
_PART: Final = r"[^\s.*>\x00-\x1f\x7f\ud800-\udfff]+"
_SUBJECT: Final = re.compile(rf"{_PART}(?:\.{_PART})*")
_PLAIN_SUBJECT: Final = re.compile(r"[A-Za-z0-9_$-]+(?:\.[A-Za-z0-9_$-]+)*")
"""Nearly all subjects, for a third of the time."""
_PATTERN: Final = re.compile(rf"(?:{_PART}|\*)(?:\.(?:{_PART}|\*))*(?:\.>)?|>")
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_LINE_BREAKS: Final = str.maketrans({"\r": " ", "\n": " ", "\x00": " "})

OnMessage = Callable[[int, bytes, bytes, bytes, bytes], None]
"""Called with sid, subject, reply, header block and payload."""


class BrokenFrameError(Exception):
    """The server sent what is not the NATS protocol: the connection cannot be trusted any more."""


def is_subject(subject: str) -> bool:
    """Whether a message can be published to `subject`: no wildcard, white space, control character or empty token."""
    if _PLAIN_SUBJECT.fullmatch(subject) is not None:
        return len(subject) <= SUBJECT_BYTES
    return _SUBJECT.fullmatch(subject) is not None and len(subject.encode()) <= SUBJECT_BYTES


def check_subject(subject: str) -> None:
    """Refuse what is not a subject.

    Raises:
        InvalidRequestError: see `is_subject`.
    """
    if not is_subject(subject):
        raise InvalidRequestError(f"not a subject to publish to: {subject[:80]!r}", path="subject")


def check_pattern(pattern: str) -> None:
    """Refuse what cannot be subscribed to; `*` may stand for a token and `>` for the last ones.

    Raises:
        InvalidRequestError: it is not such a pattern.
    """
    if not _PATTERN.fullmatch(pattern) or len(pattern.encode()) > SUBJECT_BYTES:
        raise InvalidRequestError(f"not a subject to subscribe to: {pattern[:80]!r}", path="subject")


def header_block(headers: Mapping[str, str]) -> bytes:
    """The header block of a message; line breaks in values become spaces.

    Raises:
        InvalidRequestError: a name holds more than the characters of a token.
    """
    lines = [_VERSION.decode()]
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name):
            raise InvalidRequestError(f"not a header's name: {name[:80]!r}", path="headers")
        lines.append(f"{name}: {value.translate(_LINE_BREAKS).strip()}")
    return "\r\n".join([*lines, "", ""]).encode(errors="replace")


def publish_frame(subject: str, reply: str, block: bytes, data: bytes) -> bytes:
    """PUB, or HPUB when there is a header block."""
    to = f"{subject} {reply}" if reply else subject
    if not block:
        return f"PUB {to} {len(data)}\r\n".encode() + data + _CRLF
    return f"HPUB {to} {len(block)} {len(block) + len(data)}\r\n".encode() + block + data + _CRLF


def subscribe_frame(pattern: str, sid: int, queue: str = "") -> bytes:
    """SUB, in a queue group or in none."""
    return f"SUB {pattern} {queue} {sid}\r\n".encode() if queue else f"SUB {pattern} {sid}\r\n".encode()


def unsubscribe_frame(sid: int) -> bytes:
    """UNSUB at once."""
    return f"UNSUB {sid}\r\n".encode()


def read_headers(block: bytes) -> tuple[int | None, dict[str, str]]:
    """Status and headers of a block; what is malformed in it is left out or replaced, never raised."""
    first, *lines = block.split(_CRLF)
    code = first[len(_VERSION) : len(_VERSION) + 4].strip()
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if colon and name.isascii():
            headers.setdefault(name.decode().strip(), value.decode(errors="replace").strip())
    return (int(code) if code.isdigit() else None), headers


class FrameReader:
    """Cuts the server's bytes into frames and hands each on, in order.

    Args:
        on_message: gets every MSG and HMSG.
        on_control: gets every other line (PING, PONG, +OK, -ERR, INFO).
    """

    def __init__(self, on_message: OnMessage, on_control: Callable[[bytes], None]) -> None:
        self._on_message = on_message
        self._on_control = on_control
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Take what was read.

        Raises:
            BrokenFrameError: it is not the NATS protocol.
        """
        buffer = self._rest + data if self._rest else data
        at = 0
        while (end := buffer.find(_CRLF, at)) >= 0:
            line = buffer[at:end]
            if not line.startswith((b"MSG ", b"HMSG ")):
                self._on_control(line)
                at = end + 2
                continue
            sid, subject, reply, header_size, size = _fields(line)
            body = end + 2
            stop = body + size
            if len(buffer) < stop + 2:
                break
            split = body + header_size
            self._on_message(sid, subject, reply, buffer[body:split], buffer[split:stop])
            at = stop + 2
        self._rest = buffer[at:]


def _fields(line: bytes) -> tuple[int, bytes, bytes, int, int]:
    """Sid, subject, reply (empty when there is none), size of the header block, size of all, in bytes."""
    try:
        kind, subject, sid, *reply, size = line.split(b" ")
        header_size = int(reply.pop()) if kind == b"HMSG" else 0
        [reply_to] = reply or [b""]
        return int(sid), subject, reply_to, header_size, int(size)
    except (ValueError, IndexError):
        raise BrokenFrameError(f"not a message's line: {line[:200]!r}") from None
