"""A mirror for other eyes: the latest value of each key in a JetStream key-value bucket (NATS ADR-8).

Nothing in Callboard reads it back: losing the bucket loses a view, never a task. It is written over the plain JetStream
API, so it follows the bus over reconnections by itself.
"""

import re
from typing import Any, Final, Self

import msgspec

from callboard.bus.connection import Bus
from callboard.bus.messages import NoRespondersError
from callboard.schemas.errors import ConfigurationError, InvalidRequestError, PayloadTooLargeError, UnavailableError

_BUCKET: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_KEY: Final = re.compile(r"[-/_=A-Za-z0-9]+(?:\.[-/_=A-Za-z0-9]+)*")
_TIMEOUT_S: Final = 5.0
_NAME_IN_USE: Final = 10058
_MESSAGE_TOO_LARGE: Final = 10054


class _ApiError(msgspec.Struct):
    description: str = ""
    err_code: int = 0


class _ApiAnswer(msgspec.Struct):
    error: _ApiError | None = None
    seq: int = 0


class Mirror:
    """A bucket that keeps one value for each key; made by `Mirror.open`."""

    def __init__(self, bus: Bus, bucket: str) -> None:
        self._bus = bus
        self._bucket = bucket
        self._closed = False

    @classmethod
    async def open(cls, bus: Bus, bucket: str, *, in_memory: bool = True, max_bytes: int = 64 * 1024 * 1024) -> Self:
        """Bind the bucket, made when missing; one that exists keeps its own settings.

        Args:
            bus: where to write.
            bucket: letters, digits, `-` and `_`.
            in_memory: else in a file.
            max_bytes: the bucket's limit; the oldest keys go first.

        Raises:
            ConfigurationError: JetStream is not enabled, not allowed, or refuses the bucket.
            UnavailableError, OutcomeUnknownError: NATS is away or does not answer.
        """
        if not _BUCKET.fullmatch(bucket):
            raise ConfigurationError(f"not the name of a bucket: {bucket!r}", path="bucket")
        mirror = cls(bus, bucket)
        config: dict[str, Any] = {
            "name": f"KV_{bucket}",
            "subjects": [f"$KV.{bucket}.>"],
            "max_msgs_per_subject": 1,
            "max_bytes": max_bytes,
            "storage": "memory" if in_memory else "file",
            # The oldest go first: a full mirror must show the present.
            "discard": "old",
            "retention": "limits",
            "num_replicas": 1,
            "allow_rollup_hdrs": True,
            "deny_delete": True,
            "allow_direct": True,
        }
        answer = await mirror._call(f"$JS.API.STREAM.CREATE.KV_{bucket}", msgspec.json.encode(config))
        if answer.error and answer.error.err_code != _NAME_IN_USE:
            raise ConfigurationError(f"JetStream refuses the bucket {bucket}: {answer.error.description}")
        return mirror

    async def put(self, key: str, value: bytes) -> None:
        """Set the value of `key`; JetStream has it when this returns.

        Raises:
            InvalidRequestError: `key` is not a key of ADR-8.
            PayloadTooLargeError: `value` is larger than NATS or the bucket takes.
            UnavailableError: not written.
            OutcomeUnknownError: no answer in 5 s; put it again.
        """
        await self._write(key, value, None)

    async def delete(self, key: str) -> None:
        """Mark `key` as deleted; watchers see it. Raises as `put`."""
        await self._write(key, b"", {"KV-Operation": "DEL"})

    async def close(self) -> None:
        """Write no more; the bucket stays. May be called twice."""
        self._closed = True

    async def _write(self, key: str, value: bytes, headers: dict[str, str] | None) -> None:
        if self._closed:
            raise UnavailableError(f"the mirror of {self._bucket} is closed")
        if not _KEY.fullmatch(key):
            raise InvalidRequestError(f"not a key: {key[:80]!r}", path="key")
        answer = await self._call(f"$KV.{self._bucket}.{key}", value, headers)
        if answer.error is None:
            return
        text = f"the bucket {self._bucket} refuses {key}: {answer.error.description}"
        if answer.error.err_code == _MESSAGE_TOO_LARGE:
            raise PayloadTooLargeError(text, path="value", bytes=len(value))
        raise UnavailableError(text)

    async def _call(self, subject: str, data: bytes, headers: dict[str, str] | None = None) -> _ApiAnswer:
        try:
            message = await self._bus.request(subject, data, timeout_s=_TIMEOUT_S, headers=headers)
        except NoRespondersError:
            text = "JetStream is not enabled for this user on the NATS server: start it with -js, or turn caching off"
            raise ConfigurationError(text) from None
        try:
            return msgspec.json.decode(message.data, type=_ApiAnswer)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UnavailableError(f"JetStream's answer is not understood: {error}") from None
