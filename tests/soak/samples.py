"""What is sampled of a running stack: of its processes, its database, and the program that loads it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Final

import anyio
from tests.soak.slope import Tolerance

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO

    import asyncpg

MIB: Final = 1024 * 1024
_MEMORY = Tolerance(share=0.04, absolute=4)
_SERVER = Tolerance(share=0.04, absolute=16)
"""nats-server remembers the last 10,000 connections that were closed."""
_FEW = Tolerance(share=0.10, absolute=3)
_LOADED = Tolerance(share=0.15, absolute=8)
_PAGES = Tolerance(share=0.10, absolute=4)
"""Pages of dead rows are free for new ones after a vacuum, whose turn comes once a minute."""

SERIES: Final[dict[str, Tolerance | None]] = {
    "serve.rss_mib": _MEMORY,
    "serve.fds": _FEW,
    "serve.tasks": _FEW,
    "nats.rss_mib": _SERVER,
    "nats.fds": _LOADED,
    "load.rss_mib": _MEMORY,
    "load.fds": _LOADED,
    "load.tasks": _LOADED,
    "postgres.connections": _FEW,
    "agent.rows": _FEW,
    "agent.mib": _PAGES,
    "task.rows": _LOADED,
    "task.mib": _PAGES,
    "pool_lease.mib": _PAGES,
    "event_outbox.rows": _LOADED,
    "event_outbox.mib": _PAGES,
    "key_hold.rows": _LOADED,
    "task_dialogue.rows": _FEW,
    # Grow as they should until their retention is over; shown only.
    "task_history.mib": None,
    "task_key.mib": None,
}
"""Each series and by how much it may grow; what is `_LOADED` comes and goes with the visitors."""

_TABLES = """
SELECT (SELECT count(*) FROM agent) AS agent_rows, (SELECT count(*) FROM task) AS task_rows,
    (SELECT count(*) FROM event_outbox) AS event_outbox_rows, (SELECT count(*) FROM key_hold) AS key_hold_rows,
    (SELECT count(*) FROM task_dialogue) AS task_dialogue_rows, pg_total_relation_size('event_outbox') AS event_outbox,
    (SELECT count(*) FROM pg_stat_activity WHERE application_name = 'callboard') AS connections,
    pg_total_relation_size('agent') AS agent, pg_total_relation_size('task') AS task,
    pg_total_relation_size('pool_lease') AS pool_lease, pg_total_relation_size('task_key') AS task_key,
    (SELECT sum(pg_total_relation_size(inhrelid)) FROM pg_inherits
     WHERE inhparent = 'task_history'::regclass) AS task_history
"""


class Sampler:
    """Samples one stack; each sample is kept in memory and written as a line of JSON."""

    def __init__(self, *, serve: int, nats: int, load: int, http_url: str, pg: asyncpg.Connection, out: TextIO) -> None:
        self.times_s: list[float] = []
        self.values: dict[str, list[float]] = {name: [] for name in SERIES}
        self._processes = {"serve": serve, "nats": nats, "load": load}
        self._http_url = http_url
        self._pg = pg
        self._out = out
        self._began_s = monotonic()

    async def sample(self) -> None:
        """Take one sample."""
        now_s = round(monotonic() - self._began_s, 1)
        values: dict[str, float] = {}
        for name, pid in self._processes.items():
            values |= {f"{name}.{key}": value for key, value in _of_process(pid)}
        values["serve.tasks"] = await _metric(self._http_url, "callboard_event_loop_tasks")
        values["load.tasks"] = len(asyncio.all_tasks())
        [row] = await self._pg.fetch(_TABLES)
        values["postgres.connections"] = row["connections"]
        for table in ("agent", "task", "event_outbox", "key_hold", "task_dialogue"):
            values[f"{table}.rows"] = row[f"{table}_rows"]
        for table in ("agent", "task", "pool_lease", "event_outbox", "task_key", "task_history"):
            values[f"{table}.mib"] = round(float(row[table]) / MIB, 3)
        self.times_s.append(now_s)
        for name in SERIES:
            self.values[name].append(values[name])
        self._out.write(json.dumps({"s": now_s, **values}) + "\n")
        self._out.flush()


def _of_process(pid: int) -> Iterator[tuple[str, float]]:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    kib = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))
    yield "rss_mib", round(int(kib) / 1024, 2)
    yield "fds", sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


async def _metric(http_url: str, name: str) -> float:
    """The value of a metric without labels."""
    host, port = http_url.removeprefix("http://").split(":")
    async with await anyio.connect_tcp(host, int(port)) as stream:
        await stream.send(f"GET /metrics HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        text = b"".join([chunk async for chunk in stream]).decode()
    return float(next(line.split()[1] for line in text.splitlines() if line.startswith(f"{name} ")))
