"""What settings must be to each other. A rule is data: the settings it looks at, and what is wrong with them.

Ranges of single settings stand with their types in `model`. A rule is skipped when one of its settings is itself
mistaken: one mistake is reported once.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Final

from callboard.bus.options import BusOptions, servers_of
from callboard.orchestrator.config.mistakes import Mistake, shown
from callboard.orchestrator.config.modes import LogFormat, OrchestratorMode
from callboard.orchestrator.config.secrets import hide_in_url
from callboard.schemas.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from callboard.orchestrator.config.model import OrchestratorConfig

    Rule = tuple[tuple[str, ...], Callable[[OrchestratorConfig], str | None]]


POSTGRES_SCHEMES: Final = ("postgresql://", "postgres://", "postgresql+asyncpg://")


def _is_production(config: OrchestratorConfig) -> bool:
    return config.mode is OrchestratorMode.PRODUCTION


def _persistence(config: OrchestratorConfig) -> str | None:
    if _is_production(config) and not config.enable_database_persistence:
        return "must be on in production: accepted tasks would be lost with the process"
    return None


def _json_logs(config: OrchestratorConfig) -> str | None:
    if _is_production(config) and config.log_format is not LogFormat.JSON:
        return "must be json in production"
    return None


def _distinct_pools(config: OrchestratorConfig) -> str | None:
    return "names a pool twice" if len(set(config.pools)) < len(config.pools) else None


def _batch_fits_queue(config: OrchestratorConfig) -> str | None:
    return "must not exceed max_queued_tasks" if config.batch_max > config.max_queued_tasks else None


def _keys_end_with_tasks(config: OrchestratorConfig) -> str | None:
    if config.key_retention_seconds > config.retention_days * 86_400:
        return f"must not exceed retention_days ({config.retention_days}): a key would point to a task that is gone"
    return None


def _replies_stay_outside(config: OrchestratorConfig) -> str | None:
    if any(prefix.startswith(f"{config.prefix}.") for prefix in config.reply_prefixes):
        return f"must not start with the prefix {config.prefix!r}: answers could be aimed at other agents' subjects"
    return None


def _database_is_postgres(config: OrchestratorConfig) -> str | None:
    if config.database_url is None or config.database_url.startswith(POSTGRES_SCHEMES):
        return None
    return f"must begin with one of {', '.join(POSTGRES_SCHEMES)}"


def _nats_can_be_dialled(config: OrchestratorConfig) -> str | None:
    if config.nats.url is None:
        return None
    try:
        BusOptions(servers=servers_of(config.nats.url))
    except ConfigurationError:
        # Its own words quote what they look at, which may be half of a password with a comma.
        return "must be nats://host:port or tls://host:port, several parted by commas"
    return None


# The first setting of a rule is the one to be reported.
RULES: Final[tuple[Rule, ...]] = (
    (("enable_database_persistence", "mode"), _persistence),
    (("log_format", "mode"), _json_logs),
    (("pools",), _distinct_pools),
    (("batch_max", "max_queued_tasks"), _batch_fits_queue),
    (("key_retention_seconds", "retention_days"), _keys_end_with_tasks),
    (("reply_prefixes", "prefix"), _replies_stay_outside),
    (("database_url",), _database_is_postgres),
    (("nats.url",), _nats_can_be_dialled),
)


def broken_rules(config: OrchestratorConfig, mistaken: Collection[str]) -> Iterator[Mistake]:
    """The mistakes among settings that are valid by themselves."""
    for settings, check in RULES:
        if not any(_top(setting) in mistaken for setting in settings) and (message := check(config)) is not None:
            reported, *others = settings
            value = attrgetter(reported)(config)
            # The only secrets among these settings are in addresses; what is no address holds nothing that is hidden.
            given = shown(hide_in_url(value) if isinstance(value, str) else value)
            yield Mistake(path=reported, message=message, value=given, concerns=tuple(others))


def _top(path: str) -> str:
    return path.partition(".")[0]


def missing_addresses(mode: OrchestratorMode | None, nats: str | None, database: str | None) -> Iterator[Mistake]:
    """Production's refusal to guess. Apart from `RULES`: addresses may be added to a constructed configuration."""
    if mode is not OrchestratorMode.PRODUCTION:
        return
    if not nats:
        yield Mistake(path="nats.url", message="must be given in production: set NATS_URL or NATS_CONTEXT")
    if not database:
        yield Mistake(path="database_url", message="must be given in production: set DATABASE_URL")
