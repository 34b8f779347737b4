"""Messages of the Synadia Agent Protocol 0.3, read as tolerantly and written as strictly as it asks for.

What is unknown is ignored: fields (sections 5.6, 6.6), chunk types, status values. What is known and malformed raises.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

PROTOCOL_VERSION: Final = "0.3"
SERVICE: Final = "agents"
QUEUE_GROUP: Final = "agents"
HEARTBEATS: Final = "agents.hb.*.*.*"
TERMINATOR: Final = b""
ACK: Final = "ack"
ERROR_CODE: Final = "Nats-Service-Error-Code"
ERROR_TEXT: Final = "Nats-Service-Error"
DEFAULT_INTERVAL_S: Final = 30.0
INBOX: Final = "_INBOX"
"""Where answers may go: nobody must be able to aim our messages at any subject that he likes."""

_SIZE: Final = re.compile(r"\s*([0-9]{1,15})\s*(B|KB|MB|GB)\s*", re.IGNORECASE)
_UNITS: Final = {"B": 1, "KB": 1024, "MB": 1024**2, "GB": 1024**3}
_BLANKS: Final = b"\t\n\r "


class MalformedError(ValueError):
    """A message that is not one of the protocol; its text is one line for people."""


class Beat(msgspec.Struct, kw_only=True):
    """A heartbeat, and the answer of the `status` endpoint (section 8.3)."""

    agent: str
    owner: str
    instance_id: str
    interval_s: float
    session: str | None = None
    ts: str | None = None


class EndpointInfo(msgspec.Struct, kw_only=True):
    """An endpoint of a service, as `$SRV.INFO` tells it."""

    name: str
    subject: str
    metadata: dict[str, Any] | None = None


class ServiceInfo(msgspec.Struct, kw_only=True):
    """An answer to `$SRV.INFO`."""

    name: str
    id: str
    version: str = ""
    description: str = ""
    metadata: dict[str, Any] | None = None
    endpoints: list[EndpointInfo] | None = None


class Response(msgspec.Struct, frozen=True):
    """A piece of the answer."""

    text: str
    attachments: tuple[dict[str, Any], ...] = ()


class Status(msgspec.Struct, frozen=True):
    """A sign of life; `ack` is the only value that 0.3 defines."""

    value: str


class Query(msgspec.Struct, frozen=True):
    """A question of the agent; its answer goes to `reply_subject`, once."""

    id: str
    reply_subject: str
    prompt: str
    attachments: tuple[dict[str, Any], ...] = ()


Chunk = Response | Status | Query

_beat: Final = msgspec.json.Decoder(Beat)
_info: Final = msgspec.json.Decoder(ServiceInfo)


def read_beat(data: bytes) -> Beat:
    """A heartbeat.

    Raises:
        MalformedError: it is none.
    """
    beat: Beat = _decoded(_beat, data)
    if not beat.interval_s > 0 or not beat.instance_id:
        raise MalformedError(f"a heartbeat every {beat.interval_s} s of {beat.instance_id!r}")
    return beat


def read_info(data: bytes) -> ServiceInfo:
    """What a service says of itself.

    Raises:
        MalformedError: it is not that.
    """
    info: ServiceInfo = _decoded(_info, data)
    return info


def size_of(text: object) -> int | None:
    """Bytes of `1MB` and the like (section 2.1), with a KB of 1024; `None` for what is no size."""
    found = _SIZE.fullmatch(text) if isinstance(text, str) else None
    return None if found is None else int(found[1]) * _UNITS[found[2].upper()]


def read_chunk(data: bytes) -> Chunk | None:
    """A chunk of an answer; `None` for a type that is not known (section 6.6).

    Raises:
        MalformedError: it is no JSON object with a `type`, or not what its type asks for.
    """
    match _json(data):
        case {"type": "response", "data": str(text)}:
            return Response(text)
        case {"type": "response", "data": {"text": str(text), **more}}:
            return Response(text, _attachments(more))
        case {"type": "status", "data": str(value)}:
            return Status(value)
        case {"type": "query", "data": {"id": str(name), "reply_subject": str(reply), "prompt": str(prompt), **more}}:
            return Query(name, reply, prompt, _attachments(more))
        case {"type": "response" | "status" | "query" as kind}:
            raise MalformedError(f"a chunk of type {kind} without the data that belongs to it")
        case {"type": str()}:
            return None
        case _:
            raise MalformedError("a chunk that is no JSON object with a type")


def write_chunk(chunk: Chunk) -> bytes:
    """A chunk as it goes over the wire."""
    data: Any
    if isinstance(chunk, Response):
        kind = "response"
        data = {"text": chunk.text, "attachments": chunk.attachments} if chunk.attachments else chunk.text
    elif isinstance(chunk, Status):
        kind, data = "status", chunk.value
    else:
        kind, data = "query", {"id": chunk.id, "reply_subject": chunk.reply_subject, "prompt": chunk.prompt}
        if chunk.attachments:
            data["attachments"] = chunk.attachments
    return msgspec.json.encode({"type": kind, "data": data})


def read_envelope(data: bytes) -> dict[str, Any]:
    """A prompt, or the reply to a query: plain text is an envelope with nothing else (section 5.3).

    Raises:
        MalformedError: it is empty, no text, or an object without a prompt or with attachments that are none.
    """
    if not data.lstrip(_BLANKS).startswith(b"{"):
        try:
            text = data.decode()
        except UnicodeDecodeError:
            raise MalformedError("the prompt is not UTF-8") from None
        if not text.strip():
            raise MalformedError("the prompt is empty")
        return {"prompt": text}
    envelope = _json(data)
    if not isinstance(envelope, dict) or not isinstance(envelope.get("prompt"), str) or not envelope["prompt"].strip():
        raise MalformedError("an envelope needs a prompt that is not empty")
    for attachment in _attachments(envelope):
        _check_base64(attachment["content"], attachment["filename"])
    return envelope


def write_envelope(envelope: Mapping[str, Any]) -> bytes:
    """An envelope as it goes over the wire; plain text would be one, too, but not for a text that begins with `{`."""
    return msgspec.json.encode(envelope)


def _attachments(fields: Mapping[Any, Any]) -> tuple[dict[str, Any], ...]:
    found = fields.get("attachments") or []
    if not isinstance(found, list):
        raise MalformedError("attachments are a list")
    for each in found:
        match each:
            case {"filename": str(), "content": str()}:
                continue
            case _:
                raise MalformedError("an attachment needs filename and content")
    return tuple(found)


def _check_base64(content: str, filename: str) -> None:
    try:
        base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError):
        raise MalformedError(f"attachment {filename[:80]!r} is not base64") from None


def _json(data: bytes) -> Any:  # noqa: ANN401 - any JSON value
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedError(f"not JSON: {error}") from None


def _decoded(decoder: "msgspec.json.Decoder[Any]", data: bytes) -> Any:  # noqa: ANN401 - what the decoder makes
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedError(str(error)) from None
