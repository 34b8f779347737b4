"""Every setting of the orchestrator: its type, range, meaning and default. Nothing here reads files or the environment.

Constructing a configuration checks it: whatever was not given takes the preset of its mode, and all mistakes are
reported at once. `__init__.py` says where settings come from.
"""

import os
import re
import socket
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta

from callboard.orchestrator.config.base import Settings
from callboard.orchestrator.config.check import Checker
from callboard.orchestrator.config.fields import fields_of
from callboard.orchestrator.config.mistakes import InvalidSettingsError
from callboard.orchestrator.config.modes import PRESETS, LateResults, LogFormat, LogLevel, OrchestratorMode
from callboard.orchestrator.config.rules import broken_rules
from callboard.orchestrator.config.sections import (
    SECRET_IN_URL,
    EventSettings,
    IntakeSettings,
    NatsSettings,
    RoleSettings,
    SizeLimits,
)
from callboard.schemas.names import Pool
from callboard.schemas.vocabulary import TaskAssignmentStrategy

Token = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z")]
InboxPrefix = Annotated[str, Meta(pattern=r"^([^\s.*>]+\.)+\Z")]
Ms = Annotated[int, Meta(ge=1, le=3_600_000)]
Capacity = Annotated[int, Meta(ge=1, le=100_000_000)]


def _by_mode() -> Any:  # noqa: ANN401 - stands for any type until `__post_init__` has put the preset in its place
    return UNSET


def default_replica() -> str:
    """`<host>-<pid>`: unique among the replicas of one cluster, and tells an operator where to look."""
    return f"{re.sub(r'[^A-Za-z0-9_.-]', '-', socket.gethostname())[:100]}-{os.getpid()}"


class OrchestratorConfig(Settings, frozen=True, kw_only=True):
    """The configuration of one orchestrator process.

    Raises:
        ConfigurationError: With every mistake in `details.mistakes`.
    """

    mode: Annotated[OrchestratorMode, Meta(description="Selects the preset")] = OrchestratorMode.DEVELOPMENT
    pools: Annotated[
        tuple[Pool, ...],
        Meta(description="Pools this replica stands for; it owns those whose lease it wins", min_length=1),
    ] = ("default",)
    prefix: Annotated[Token, Meta(description="First token of every subject")] = "callboard"
    replica: Annotated[
        str,
        Meta(
            description="Name of this process among its replicas",
            pattern=r"^[A-Za-z0-9_.-]{1,128}\Z",
            extra={"default": "<host>-<pid>"},
        ),
    ] = msgspec.field(default_factory=default_replica)
    nats: NatsSettings = NatsSettings()
    database_url: Annotated[
        str | None, Meta(description="Address of Postgres (`DATABASE_URL`)", extra=SECRET_IN_URL)
    ] = None
    data_dir: Annotated[
        str | None, Meta(description="Where the embedded servers keep their state; none: the user's data directory")
    ] = None

    default_task_assignment_strategy: Annotated[
        TaskAssignmentStrategy, Meta(description="How an agent is chosen when the task does not say")
    ] = TaskAssignmentStrategy.AVAILABILITY_BASED
    max_concurrent_agents: Annotated[
        int, Meta(description="Agents this process may have spawned and not stopped", ge=0, le=10_000)
    ] = 10
    max_registered_agents: Annotated[Capacity, Meta(description="Agents known in a pool")] = 10_000
    max_queued_tasks: Annotated[Capacity, Meta(description="Live tasks in a pool; more are refused")] = 1_000_000
    queue_window: Annotated[
        Capacity, Meta(description="Waiting tasks of a pool that memory holds, about; the others wait in the database")
    ] = 20_000
    max_waiters: Annotated[
        Capacity, Meta(description="Tasks of a pool that are waited for at once, as often as each is")
    ] = 10_000
    batch_max: Annotated[int, Meta(description="Tasks decided and committed together, about", ge=1, le=10_000)] = 128

    heartbeat_interval_seconds: Annotated[
        float, Meta(description="How often agents report, before it grows with their number", ge=0.1, le=300)
    ] = _by_mode()
    lease_intervals: Annotated[
        int, Meta(description="An agent silent for so many intervals is offline", ge=2, le=100)
    ] = 3
    ageing_seconds: Annotated[
        int,
        Meta(
            description="After so long a waiting task counts as one priority higher, and again; 0: never",
            ge=0,
            le=604_800,
        ),
    ] = 0
    agent_quarantine_failures: Annotated[
        int, Meta(description="An agent that failed so often in a row is quarantined; 0: never", ge=0, le=1000)
    ] = 10
    late_results: Annotated[
        LateResults,
        Meta(description="A result of an attempt that was given up, while its task waits: taken or refused"),
    ] = LateResults.REFUSE
    offer_repeat_ms: Annotated[
        tuple[Ms, ...], Meta(description="When an unanswered offer is repeated, ms after the one before", max_length=10)
    ] = (1000, 2000, 4000)
    pool_lease_ms: Annotated[
        int, Meta(description="How long an owner may be silent before its pool passes on, ms", ge=1000, le=60_000)
    ] = 3000
    key_retention_seconds: Annotated[
        int, Meta(description="How long a key outlives its task", ge=60, le=10 * 365 * 86_400)
    ] = 7 * 86_400
    retention_days: Annotated[int, Meta(description="How long finished tasks are kept", ge=1, le=3650)] = 30

    limits: SizeLimits = SizeLimits()
    reply_prefixes: Annotated[
        tuple[InboxPrefix, ...], Meta(description="What a reply subject must start with, dot included", min_length=1)
    ] = ("_INBOX.",)

    events: EventSettings = EventSettings()
    intake: IntakeSettings = IntakeSettings()

    roles: dict[str, RoleSettings] = msgspec.field(default_factory=dict[str, RoleSettings])
    spawn_timeout_seconds: Annotated[
        float, Meta(description="How long a spawned agent may take to come online", gt=0, le=3600)
    ] = 30.0

    http_host: Annotated[str, Meta(description="Address of `/metrics`, `/healthz`, `/readyz`", min_length=1)] = (
        "127.0.0.1"
    )
    http_port: Annotated[int, Meta(description="Its port; 0 takes a free one", ge=0, le=65_535)] = _by_mode()
    log_format: Annotated[LogFormat, Meta(description="`console` for people, `json` for programs")] = _by_mode()
    log_level: Annotated[LogLevel, Meta(description="The least severe events that are written")] = _by_mode()

    enable_database_persistence: Annotated[
        bool, Meta(description="Off: tasks live in memory only and end with the process")
    ] = True
    enable_caching: Annotated[
        bool, Meta(description="Mirror agents and status to a NATS key-value bucket (needs JetStream)")
    ] = False
    enable_performance_monitoring: Annotated[
        bool, Meta(description="Measure durations and rates for `/metrics` and `status`")
    ] = True
    enable_background_tasks: Annotated[bool, Meta(description="Run the chores: retention, mirroring, statistics")] = (
        True
    )
    allow_relaxed_durability: Annotated[
        bool, Meta(description="Accept a database with `fsync` or `synchronous_commit` off")
    ] = _by_mode()

    def __post_init__(self) -> None:
        """Put presets in place of what was not given, and check everything."""
        struct = type(self)
        given = {name: value for name in self.__struct_fields__ if (value := getattr(self, name)) is not UNSET}
        checker = Checker()
        tree = checker.struct(struct, given)
        tree = PRESETS[tree.get("mode", OrchestratorMode.DEVELOPMENT)] | tree
        for name, field in fields_of(struct).items():
            if name in tree:
                value = tree[name]
                msgspec.structs.force_setattr(self, name, msgspec.convert(value, field.type) if field.group else value)
        mistaken = {mistake.setting for mistake in checker.mistakes}
        mistakes = [*checker.mistakes, *broken_rules(self, mistaken)]
        if mistakes:
            raise InvalidSettingsError(mistakes)
