"""Converts raw settings to typed ones, field by field, so that every mistake is found and not only the first.

The result is a tree of plain dicts with converted leaves: layers can still be laid over each other.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import msgspec

from callboard.orchestrator.config.fields import Field, fields_of, type_text
from callboard.orchestrator.config.mistakes import Mistake, shown
from callboard.orchestrator.config.secrets import hide
from callboard.orchestrator.config.unknown import unknown
from callboard.schemas.names import in_words, is_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_INSIDE = re.compile(r" - at `(?:key in )?\$?(.*)`\Z")


class Checker:
    """Checks one layer of settings; `mistakes` collects what is wrong with it.

    Args:
        lax: Texts stand for numbers and truth values, and a comma separated text for a list (environment variables).
        source_of: A path to where its value comes from, if that is worth saying.
    """

    def __init__(self, *, lax: bool = False, source_of: Callable[[str], str] | None = None) -> None:
        self.mistakes: list[Mistake] = []
        self._lax = lax
        self._source_of = source_of

    def struct(self, struct: type[msgspec.Struct], raw: object, path: str = "") -> dict[str, Any]:
        """The valid part of `raw` as a tree."""
        if isinstance(raw, struct):
            raw = msgspec.structs.asdict(raw)
        if not isinstance(raw, dict):
            self._add(path, "expected a table of settings", raw)
            return {}
        fields = fields_of(struct)
        tree: dict[str, Any] = {}
        for name, value in raw.items():
            where = f"{path}.{name}" if path else str(name)
            if name in fields:
                self._field(fields[name], value, where, tree)
            else:
                self._add(where, unknown(str(name), struct), None)
        return tree

    def _field(self, field: Field, value: object, path: str, tree: dict[str, Any]) -> None:
        if field.group is None:
            self._leaf(field, value, path, tree)
        elif field.is_table:
            tree[field.name] = self._table(field.group, value, path)
        else:
            tree[field.name] = self.struct(field.group, value, path)

    def _table(self, group: type[msgspec.Struct], raw: object, path: str) -> dict[str, Any]:
        if not isinstance(raw, dict):
            self._add(path, "expected a table of settings", raw)
            return {}
        tree = {}
        for name, value in raw.items():
            if isinstance(name, str) and is_name(name):
                tree[name] = self.struct(group, value, f"{path}.{name}")
            else:
                self._add(f"{path}.{name}", "a name is 1 to 64 of A-Z a-z 0-9 _ -", None)
        return tree

    def _leaf(self, field: Field, value: object, path: str, tree: dict[str, Any]) -> None:
        try:
            converted = msgspec.convert(value, field.type, strict=not self._lax)
        except (msgspec.ValidationError, OverflowError) as error:
            inside = _INSIDE.search(text := str(error))
            is_no_choice = text.startswith("Invalid enum value")
            message = f"expected one of {type_text(field.type)}" if is_no_choice else in_words(_INSIDE.sub("", text))
            self._add(path + (inside[1] if inside else ""), message, hide(value, field.secret))
            return
        if isinstance(converted, float) and not math.isfinite(converted):
            self._add(path, "expected a finite number", value)
        else:
            tree[field.name] = converted

    def _add(self, path: str, message: str, value: object) -> None:
        message = message[:1].lower() + message[1:]
        given = None if value is None else shown(value)
        source = None if self._source_of is None else self._source_of(path)
        self.mistakes.append(Mistake(path=path, message=message, value=given, source=source))


def overlay(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Both trees in one; where both have a leaf, that of `over`."""
    merged = dict(base)
    for name, value in over.items():
        below = merged.get(name)
        merged[name] = overlay(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged
