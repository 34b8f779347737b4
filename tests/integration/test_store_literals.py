"""What is written as an array's literal is read back by Postgres to the letter."""

from __future__ import annotations

import random
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from callboard.orchestrator.store.driver import PgConnection
from callboard.orchestrator.store.literals import literal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

pytestmark = pytest.mark.anyio

SEED = 20261123
NASTY = [
    "",
    " ",
    "NULL",
    "null",
    "{}",
    "{a,b}",
    '"',
    '""',
    "\\",
    '\\"',
    '","',
    ",",
    " a ",
    "\n\t\r",
    "\x01",
    "é",
    "😀",
    "'",
]


class Level(IntEnum):
    LOW = -1
    HIGH = 7


@pytest.fixture
async def pg(database_url: str) -> AsyncIterator[PgConnection]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def read_back(pg: PgConnection, kind: str, column: Sequence[Any]) -> list[Any]:
    query = f"SELECT x FROM unnest($1::text::{kind}[]) WITH ORDINALITY AS u(x, n) ORDER BY n"  # noqa: S608 - kinds of ours
    rows = await pg.fetch(query, literal(column))
    return [row["x"] for row in rows]


@pytest.mark.parametrize("kind", ["bigint", "smallint"])
async def test_numbers(pg: PgConnection, kind: str) -> None:
    for column in ([0], [1, -2, 32767], [None, 3, None], (Level.LOW, Level.HIGH)):
        assert await read_back(pg, kind, column) == list(column)
    assert await read_back(pg, "bigint", [2**63 - 1, -(2**63)]) == [2**63 - 1, -(2**63)]


async def test_truths(pg: PgConnection) -> None:
    assert await read_back(pg, "boolean", [True, False, None]) == [True, False, None]


async def test_each_text_alone_and_beside_others(pg: PgConnection) -> None:
    for text in NASTY:
        assert await read_back(pg, "text", [text]) == [text]
        assert await read_back(pg, "text", [text, None]) == [text, None]
    assert await read_back(pg, "text", NASTY) == NASTY


async def test_any_texts(pg: PgConnection) -> None:
    dice = random.Random(SEED)  # noqa: S311 - makes test data
    alphabet = "ab,{}\"\\ \n'NUL"
    for _ in range(200):
        column = [
            None if dice.random() < 0.1 else "".join(dice.choices(alphabet, k=dice.randrange(6)))
            for _ in range(dice.randrange(1, 8))
        ]
        if column.count(None) < len(column):
            assert await read_back(pg, "text", column) == column, f"seed {SEED}"


async def test_a_column_of_nulls_costs_nothing() -> None:
    assert literal([None, None]) == "{}"


async def test_what_does_not_fit_is_the_rows_fault(pg: PgConnection) -> None:
    for kind, column in (("smallint", [70_000]), ("bigint", [2**63]), ("text", ["a\x00b"])):
        with pytest.raises(asyncpg.DataError):
            await read_back(pg, kind, column)
