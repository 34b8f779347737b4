"""A witness in the database: whoever writes a task with an epoch that is not its pool's is put on record."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_SET_UP = """
CREATE TABLE stale_write (what text NOT NULL);
CREATE FUNCTION note_stale_write() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO stale_write
    SELECT format('%s of epoch %s in epoch %s', NEW.id, NEW.epoch, l.epoch)
    FROM pool_lease l WHERE l.pool = NEW.pool AND l.epoch <> NEW.epoch;
    RETURN NEW;
END $$;
CREATE TRIGGER witness BEFORE INSERT OR UPDATE ON task FOR EACH ROW EXECUTE FUNCTION note_stale_write();
CREATE TRIGGER witness BEFORE INSERT OR UPDATE ON task_history FOR EACH ROW EXECUTE FUNCTION note_stale_write();
"""


class Witness:
    """What it saw."""

    def __init__(self, pg: asyncpg.Connection) -> None:
        self._pg = pg

    async def stale_writes(self) -> list[str]:
        """Each write with another epoch than its pool's."""
        return [row["what"] for row in await self._pg.fetch("SELECT what FROM stale_write")]

    async def tasks(self) -> list[tuple[str, ...]]:
        """Every task as it stands, by id."""
        rows = await self._pg.fetch(
            "SELECT id, state, version, attempt, epoch, batch FROM task UNION ALL "
            "SELECT id, state, version, attempt, epoch, batch FROM task_history ORDER BY 1"
        )
        return [tuple(str(value) for value in row) for row in rows]

    @classmethod
    @asynccontextmanager
    async def of(cls, database_url: str) -> AsyncIterator[Witness]:
        """Set it up in a database that has its schema."""
        pg = await asyncpg.connect(database_url)
        try:
            await pg.execute(_SET_UP)
            yield cls(pg)
        finally:
            await pg.close()
