"""The systems that are compared: what each needs, and what must be known to read its figures."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Broker(StrEnum):
    """The server that a system keeps its tasks in."""

    OURS = "ours"
    REDIS = "redis"
    NATS = "nats"
    POSTGRES = "postgres"
    OWN = "own"


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """One system.

    Attributes:
        name: how it is called by `--systems` and in the tables.
        driver: the module in `drivers`.
        requirements: the file in `requirements`, and the virtual environment; none: ours.
        broker: what it keeps its tasks in.
        has_worker: whether the harness starts its worker process, or its own server does.
        has_tables: whether its driver has an `install` that makes them.
        bulk: the bulk call.
        note: what must be known.
        required: the run fails when it cannot be run.
    """

    name: str
    driver: str
    requirements: str | None
    broker: Broker
    has_worker: bool = True
    has_tables: bool = False
    bulk: str
    note: str
    required: bool = False


OURS: Final = "callboard"
SYSTEMS: Final = (
    System(
        name=OURS,
        driver="callboard_driver",
        requirements=None,
        broker=Broker.OURS,
        bulk="submit_many",
        note="NATS and Postgres with fsync; results kept and read; history and metrics on",
        required=True,
    ),
    System(
        name="pgqueuer",
        driver="pgqueuer_driver",
        requirements="pgqueuer",
        broker=Broker.POSTGRES,
        has_tables=True,
        bulk="enqueue, lists",
        note="the same Postgres, fsync; keeps no results: the status is read",
        required=True,
    ),
    System(
        name="taskiq-redis",
        driver="taskiq_redis_driver",
        requirements="taskiq",
        broker=Broker.REDIS,
        bulk="none: kicked at once",
        note="Redis streams, appendonly, fsync every second",
        required=True,
    ),
    System(
        name="dramatiq",
        driver="dramatiq_driver",
        requirements="dramatiq",
        broker=Broker.REDIS,
        bulk="none: sent in a loop",
        note="Redis, appendonly, fsync every second",
        required=True,
    ),
    System(
        name="celery",
        driver="celery_driver",
        requirements="celery",
        broker=Broker.REDIS,
        bulk="none: sent in a loop",
        note="Redis, appendonly, fsync every second; acknowledged late",
    ),
    System(
        name="procrastinate",
        driver="procrastinate_driver",
        requirements="procrastinate",
        broker=Broker.POSTGRES,
        has_tables=True,
        bulk="batch_defer",
        note="the same Postgres, fsync; keeps no results: the status is read",
    ),
    System(
        name="taskiq-nats",
        driver="taskiq_nats_driver",
        requirements="taskiq",
        broker=Broker.NATS,
        bulk="none: kicked at once",
        note="JetStream stream and object store, on disk, synced every 2 minutes",
    ),
    System(
        name="ray",
        driver="ray_driver",
        requirements="ray",
        broker=Broker.OWN,
        has_worker=False,
        bulk="get of a list",
        note="in memory; its worker counts as its servers",
    ),
    System(
        name="dask",
        driver="dask_driver",
        requirements="dask",
        broker=Broker.OWN,
        bulk="map, gather",
        note="in memory",
    ),
)
