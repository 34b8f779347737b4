"""Columns of a batch as Postgres takes them in text: `{1,2,NULL}`.

Rules:
- The driver looks at every element of an array to learn how deep it goes; a literal is put together by `join`, for a
  third of the time on both sides.
- Texts are quoted all, so that none of them is taken for a `NULL` or a brace; quotes and backslashes in them are
  escaped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

NULL: Final = "NULL"


def literal(column: Sequence[Any]) -> str:
    """The array of a column of texts, of numbers or of truths; each may be `None`."""
    if None in column:
        # `unnest` fills up the shorter arrays with nulls.
        return "{}" if column.count(None) == len(column) else _with_nulls(column)
    return _texts(column) if isinstance(column[0], str) else "{" + ",".join(map(str, column)) + "}"


def _texts(column: Sequence[str]) -> str:
    inner = '","'.join(column)
    if "\\" in inner or inner.count('"') != 2 * (len(column) - 1):
        inner = '","'.join(map(_escaped, column))
    return '{"' + inner + '"}'


def _with_nulls(column: Sequence[Any]) -> str:
    return "{" + ",".join([NULL if value is None else _element(value) for value in column]) + "}"


def _element(value: object) -> str:
    return f'"{_escaped(value)}"' if isinstance(value, str) else str(value)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
