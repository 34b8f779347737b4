"""Queries made with SQLAlchemy Core, written out for asyncpg: Core checks the names, asyncpg runs them at its speed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import ARRAY, Uuid, any_, bindparam, true
from sqlalchemy.dialects.postgresql.asyncpg import dialect as asyncpg_dialect

from callboard.orchestrator.store.driver import PgConnection, Record

if TYPE_CHECKING:
    from sqlalchemy import Column, ColumnElement, Dialect
    from sqlalchemy.sql import ClauseElement

_DIALECT: Final[Dialect] = asyncpg_dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy types it not


@dataclass(frozen=True, slots=True)
class Query:
    """SQL with numbered parameters, and which value each number stands for."""

    sql: str
    names: tuple[str, ...]
    defaults: dict[str, Any]

    async def fetch(
        self,
        pg: PgConnection,
        *,
        timeout_s: float | None = None,
        **values: Any,  # noqa: ANN401 - SQL values of any type
    ) -> list[Record]:
        """All rows, as records of asyncpg; `timeout_s` replaces the connection's own time-out."""
        values = {**self.defaults, **values}
        rows: list[Record] = await pg.fetch(self.sql, *(values[name] for name in self.names), timeout=timeout_s)
        return rows


def query(statement: ClauseElement) -> Query:
    """Write `statement` out; its bound values are the defaults of their names."""
    compiled = statement.compile(dialect=_DIALECT)
    return Query(str(compiled), tuple(getattr(compiled, "positiontup", None) or ()), dict(compiled.params or {}))


def in_pool(column: Column[Any]) -> ColumnElement[bool]:
    """`column = $pool`, for rows that are found by their ids.

    Written so that no index serves it: a plan made while the tables are empty could as well go through all of a pool
    for the sake of one id, and would go on doing so when there are many.
    """
    return (column == bindparam("pool")).is_(true())


def among(column: Column[Any], name: str) -> ColumnElement[bool]:
    """`column = ANY($name)`: one parameter for any number of values."""
    kind = Uuid(as_uuid=False) if isinstance(column.type, Uuid) else column.type
    return column == any_(bindparam(name, type_=ARRAY(kind)))
