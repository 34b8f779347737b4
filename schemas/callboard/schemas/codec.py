"""JSON in and out, strictly: what decodes here is safe to keep and to hand to any other language.

Refused with `InvalidRequestError`: bytes that are not UTF-8 or not JSON, NaN, numbers out of range, lone surrogates,
wrong types, bad names, nesting deeper than 32. `details.path` names the field.
"""

import math
import re
from collections.abc import Iterable
from typing import Any, Final, TypeVar

import msgspec

from callboard.schemas.errors import InvalidRequestError, PayloadTooLargeError
from callboard.schemas.limits import JSON_DEPTH
from callboard.schemas.names import in_words

M = TypeVar("M")

_PATH = re.compile(r"^(.*) - at `(?:key` in `)?\$(.*)`$", re.DOTALL)
_FIELD = re.compile(r"^Object (?:contains unknown|missing required) field `(.*)`$", re.DOTALL)
_LONGEST_PATH: Final = 512
"""Characters of a path in an error: names of fields are what the sender made them, and an error has to fit."""
_encoder = msgspec.json.Encoder()


def encode(message: object) -> bytes:
    """UTF-8 JSON of a message; raw parts are copied as they are.

    Raises:
        InvalidRequestError: a text in it has a lone surrogate, as a command line that is not UTF-8 comes.
    """
    try:
        return _encoder.encode(message)
    except UnicodeEncodeError as error:
        raise InvalidRequestError(f"not UTF-8: {str(error.object)[:_LONGEST_PATH]!r}", path="") from None


def encode_value(value: object) -> bytes:
    """UTF-8 JSON of what a user made, without loss: NaN and infinities, which JSON has no words for, are none.

    Raises:
        ValueError: a number is not finite; the message says which and where, e.g. ``nan at `$.scores[1]` ``.
        Exception: what msgspec, or a hook of the value's class, raises for what has no JSON form.
    """
    data = encode(value)
    # msgspec writes them as `null`, so that most values are cleared by a glance.
    if b"null" in data and (found := _not_finite(msgspec.to_builtins(value, enc_hook=_opaque), "$")):
        raise ValueError(found)
    return data


def _opaque(_raw: object) -> None:
    """Of what was encoded already, only `msgspec.Raw` is unknown here: JSON, whoever wrote it."""


def _not_finite(value: object, path: str) -> str | None:
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{value} at `{path[:_LONGEST_PATH]}`"
    parts: Iterable[tuple[str, object]] = ()
    if isinstance(value, dict):
        parts = ((f"{path}.{name}", part) for name, part in value.items())
    elif isinstance(value, list | tuple):
        parts = ((f"{path}[{place}]", part) for place, part in enumerate(value))
    return next(filter(None, (_not_finite(part, at) for at, part in parts)), None)


def decode(decoder: msgspec.json.Decoder[M], data: bytes) -> M:
    """One message from `data`.

    Raises:
        InvalidRequestError: it is not such a message.
    """
    try:
        # msgspec skips raw parts without looking at their bytes, so UTF-8 is checked over the whole.
        if not data.isascii():
            data.decode()
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        raise _refusal(str(error)) from None
    except msgspec.DecodeError as error:
        raise InvalidRequestError(f"not JSON: {error}", path="") from None
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"not UTF-8: byte {error.start}", path="") from None
    except RecursionError:
        raise InvalidRequestError("nested too deep", path="") from None


def _refusal(message: str) -> InvalidRequestError:
    """Msgspec's sentence as our error: the path apart, the field's name part of it."""
    found = _PATH.match(message)
    reason, path = (found[1], found[2].lstrip(".")) if found else (message, "")
    if field := _FIELD.match(reason):
        path = f"{path}.{field[1]}".lstrip(".")
    path, reason = path[:_LONGEST_PATH], in_words(reason)[:_LONGEST_PATH]
    return InvalidRequestError(f"{path}: {reason}" if path else reason, path=path)


def checked_json(raw: msgspec.Raw, *, path: str, limit: int) -> bytes:
    """The bytes of an opaque JSON value, shown to be decodable, at most `limit` bytes and 32 deep.

    Raises:
        PayloadTooLargeError: it has more than `limit` bytes.
        InvalidRequestError: it is not plain JSON or nests deeper than 32.
    """
    data = bytes(raw)
    check_size(len(data), path=path, limit=limit)
    try:
        value = msgspec.json.decode(data)
        # Cheap proof first: fewer brackets than levels cannot nest too deep.
        if data.count(b"[") + data.count(b"{") > JSON_DEPTH and _depth_exceeds(value, JSON_DEPTH):
            raise InvalidRequestError(f"{path}: nested deeper than {JSON_DEPTH}", path=path)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"{path}: {error}", path=path) from None
    except RecursionError:
        raise InvalidRequestError(f"{path}: nested deeper than {JSON_DEPTH}", path=path) from None
    return data


def check_size(size: int, *, path: str, limit: int) -> None:
    """Refuse a part of `size` bytes over `limit`.

    Raises:
        PayloadTooLargeError: it is larger.
    """
    if size > limit:
        raise PayloadTooLargeError(
            f"{path} has {size} bytes; at most {limit} are allowed", path=path, bytes=size, limit=limit
        )


def _depth_exceeds(value: Any, limit: int) -> bool:  # noqa: ANN401 - any JSON value
    if not isinstance(value, dict | list):
        return False
    if limit == 0:
        return True
    children = value.values() if isinstance(value, dict) else value
    return any(_depth_exceeds(child, limit - 1) for child in children)
