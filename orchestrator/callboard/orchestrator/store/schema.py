"""Whether a database's schema and this version fit, also while another version migrates it.

Rules:
- A migration that older versions can live with (a new column that may be null, a new table, an index) leaves
  `OLDEST_SERVED` as it is: replicas of those versions go on, and may be started, on the newer schema.
- One that they cannot live with raises `OLDEST_SERVED` to its own revision. `migrate` then takes every pool from its
  owner in the same transaction; whoever is too old finds that out when it takes a pool again, and stops.
- What the schema serves is written where the database keeps its version: in the comment of that table, which exists
  before any migration of ours and is dumped with it.
- In the same way a database has an identity, given once. It stays through dump and upgrade of the server; a copy has it
  too, and is taken for the same truth.
"""

from __future__ import annotations

import uuid
from typing import Final

import asyncpg

from callboard.orchestrator.store.driver import PgConnection
from callboard.orchestrator.store.tables import SCHEMA_REVISION
from callboard.schemas.errors import ConfigurationError

VERSION_TABLE: Final = "schema_version"
OLDEST_SERVED: Final = "0004"
"""The revision of the oldest version whose replicas can work on this version's schema. That of 0003 cannot read a task
in `waiting_input`."""

FENCE: Final = "UPDATE pool_lease SET epoch = epoch + 1, batch = 0, holder = NULL"
"""Every pool without an owner: nobody's next write goes through."""

_FOUND: Final = f"""
SELECT version_num AS revision, coalesce(obj_description('{VERSION_TABLE}'::regclass), version_num) AS oldest_served
FROM {VERSION_TABLE}
"""  # noqa: S608 - made of the constant above


READ_IDENTITY: Final = "SELECT obj_description('pool_lease'::regclass)"


def give_identity() -> str:
    """The statement that tells this database from all others."""
    return f"COMMENT ON TABLE pool_lease IS '{uuid.uuid4()}'"


def mark(oldest_served: str) -> str:
    """The statement that says whom the schema serves."""
    return f"COMMENT ON TABLE {VERSION_TABLE} IS '{oldest_served}'"


async def check_schema(pg: PgConnection) -> None:
    """Refuse a schema that this version cannot work on.

    Raises:
        ConfigurationError: it is older than this version needs, or newer than it can live with.
    """
    try:
        found = await pg.fetchrow(_FOUND)
    except asyncpg.UndefinedTableError:
        found = None
    revision = "empty" if found is None else found["revision"]
    if found is None or revision < SCHEMA_REVISION:
        raise ConfigurationError(
            f"the database's schema is {revision}, this version needs {SCHEMA_REVISION}: run callboard migrate",
            found=revision,
            needed=SCHEMA_REVISION,
        )
    if found["oldest_served"] > SCHEMA_REVISION:
        raise ConfigurationError(
            f"the database's schema is {revision}, which serves versions from {found['oldest_served']} on; "
            f"this one has {SCHEMA_REVISION}: install the callboard that migrated it, or a newer one",
            found=revision,
            needed=SCHEMA_REVISION,
        )
