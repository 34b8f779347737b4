"""The settings as data, read from the annotations of `model` and `sections`: one source for checks, display and docs.

A struct's field is a group when its type is a struct, a table of groups when it is `dict[str, <struct>]`, else a leaf.
"""

from __future__ import annotations

import functools
import typing
from dataclasses import dataclass
from typing import Any, get_args, get_origin, get_type_hints

import msgspec


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a struct of settings."""

    name: str
    type: Any
    """The annotation, for `msgspec.convert`."""
    meaning: str
    secret: str | None
    """`all`, `url` (only parts of it) or none."""
    default_text: str | None
    """What the documentation says where the default is computed."""
    group: type[msgspec.Struct] | None
    """The struct of a group or of a table's entries; none for a leaf."""
    is_table: bool


@functools.cache
def fields_of(struct: type[msgspec.Struct]) -> dict[str, Field]:
    """Name to field, in the order of the class."""
    return {name: _field(name, hint) for name, hint in get_type_hints(struct, include_extras=True).items()}


def _field(name: str, hint: Any) -> Field:  # noqa: ANN401 - an annotation is any object
    bare: Any = hint
    metas: list[msgspec.Meta] = []
    if get_origin(hint) is typing.Annotated:
        bare, *metas = get_args(hint)
    extra: dict[str, str] = {}
    for meta in metas:
        extra |= meta.extra or {}
    entries = get_args(bare)[1] if get_origin(bare) is dict else None
    return Field(
        name=name,
        type=hint,
        meaning=next((meta.description for meta in reversed(metas) if meta.description), ""),
        secret=extra.get("secret"),
        default_text=extra.get("default"),
        group=next((kind for kind in (bare, entries) if _is_struct(kind)), None),
        is_table=_is_struct(entries),
    )


def _is_struct(kind: Any) -> bool:  # noqa: ANN401 - an annotation is any object
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def type_text(hint: Any) -> str:  # noqa: ANN401 - an annotation is any object
    """A type as the reference table shows it: `text`, `list of text`, or the values of an enumeration."""
    origin = get_origin(hint)
    if origin is typing.Annotated:
        return type_text(get_args(hint)[0])
    if origin is tuple:
        return f"list of {type_text(get_args(hint)[0])}"
    members = [kind for kind in get_args(hint) if kind is not type(None)]
    if members and origin is not dict:
        return " or ".join(map(type_text, members))
    if hasattr(hint, "__members__"):
        return ", ".join(hint.__members__.values())
    return {str: "text", bool: "true or false", int: "integer", float: "number"}[hint]
