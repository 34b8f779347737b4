"""What more replicas would carry: arithmetic on measured constants, nothing else.

Rules:
- A replica is one process on one core; it is spent when its CPU time is. Pools are whole: one pool has one owner.
- Postgres and NATS are spent when their cores are; Postgres also when its disk has no more room for its log.
- All figures are for the size of task that was measured, and for the core it was measured on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.tables import Rows

FULL: Final = 0.7
"""Of a core: beyond that queues grow, and latency with them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Constants:
    """Measured, for one task.

    Attributes:
        orchestrator_us: CPU of the owner.
        postgres_us: CPU of all Postgres processes.
        nats_us: CPU of nats-server.
        commits: transactions.
        log_bytes: written to Postgres's log (WAL).
    """

    orchestrator_us: float
    postgres_us: float
    nats_us: float
    commits: float
    log_bytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """The machines that Postgres and NATS have: cores, and bytes a second that Postgres's disk takes."""

    postgres_cores: int = 32
    postgres_log_bytes_per_s: float = 1e9
    nats_cores: int = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """What a number of replicas carries.

    Attributes:
        replicas: how many.
        wanted_per_s: tasks a second that their own CPU allows.
        tasks_per_s: what the whole carries: the least of all limits.
        limit: what is spent first.
        postgres_cores: needed for what is wanted.
        nats_cores: the same.
        log_mb_per_s: the same.
        databases: needed for what is wanted, each like the site's Postgres, with whole pools in each.
    """

    replicas: int
    wanted_per_s: float
    tasks_per_s: float
    limit: str
    postgres_cores: float
    nats_cores: float
    log_mb_per_s: float
    databases: int


def carried(constants: Constants, replicas: int, site: Site) -> Carried:
    """What `replicas` carry at `site`."""
    wanted = replicas * FULL * 1e6 / constants.orchestrator_us
    limits = {
        "replicas": wanted,
        "CPU of Postgres": site.postgres_cores * FULL * 1e6 / constants.postgres_us,
        "log of Postgres": site.postgres_log_bytes_per_s / constants.log_bytes,
        "CPU of NATS": site.nats_cores * FULL * 1e6 / constants.nats_us,
    }
    limit = min(limits, key=lambda name: limits[name])
    of_one = min(limits["CPU of Postgres"], limits["log of Postgres"])
    return Carried(
        replicas=replicas,
        wanted_per_s=wanted,
        tasks_per_s=limits[limit],
        limit=limit,
        postgres_cores=wanted * constants.postgres_us / 1e6,
        nats_cores=wanted * constants.nats_us / 1e6,
        log_mb_per_s=wanted * constants.log_bytes / 1e6,
        databases=-int(-wanted // of_one),
    )


def table(constants: Constants, replicas: Sequence[int], site: Site) -> Rows:
    """A row for each number of replicas."""
    head = ["replicas", "their tasks/s", "carried", "limit", "Postgres cores", "log MB/s", "NATS cores", "databases"]
    rows = [
        [
            f"{one.replicas:,}",
            f"{one.wanted_per_s:,.0f}",
            f"{one.tasks_per_s:,.0f}",
            one.limit,
            f"{one.postgres_cores:,.1f}",
            f"{one.log_mb_per_s:,.0f}",
            f"{one.nats_cores:,.1f}",
            f"{one.databases:,}",
        ]
        for one in (carried(constants, number, site) for number in replicas)
    ]
    title = (
        f"By calculation: Postgres with {site.postgres_cores} cores and {site.postgres_log_bytes_per_s / 1e6:,.0f} "
        f"MB/s for its log, NATS with {site.nats_cores} cores, {FULL:.0%} of each used"
    )
    return title, head, rows
