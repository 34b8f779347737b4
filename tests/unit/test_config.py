from __future__ import annotations

from typing import Any

import pytest

from callboard.orchestrator.config import (
    PRESETS,
    InvalidSettingsError,
    LogFormat,
    NatsSettings,
    OrchestratorConfig,
    OrchestratorMode,
    RoleSettings,
    complete_addresses,
)
from callboard.schemas.errors import ConfigurationError
from callboard.schemas.vocabulary import TaskAssignmentStrategy


def _mistakes(**settings: Any) -> dict[str, str]:  # noqa: ANN401 - mistaken on purpose
    with pytest.raises(InvalidSettingsError) as refusal:
        OrchestratorConfig(**settings)
    return {mistake.path: mistake.message for mistake in refusal.value.mistakes}


def test_the_constructor_of_the_readme() -> None:
    config = OrchestratorConfig(
        mode=OrchestratorMode.PRODUCTION,
        max_concurrent_agents=20,
        default_task_assignment_strategy=TaskAssignmentStrategy.PERFORMANCE_BASED,
        enable_performance_monitoring=True,
        heartbeat_interval_seconds=30,
    )
    assert config.max_concurrent_agents == 20
    assert config.heartbeat_interval_seconds == 30.0
    assert config.log_format is LogFormat.JSON


@pytest.mark.parametrize("mode", OrchestratorMode)
def test_what_was_not_given_takes_the_preset_of_the_mode(mode: OrchestratorMode) -> None:
    config = OrchestratorConfig(mode=mode)
    assert {name: getattr(config, name) for name in PRESETS[mode]} == PRESETS[mode]


def test_every_mode_presets_the_same_settings() -> None:
    assert {frozenset(preset) for preset in PRESETS.values()} == {frozenset(PRESETS[OrchestratorMode.TEST])}


def test_what_was_given_wins_over_the_preset() -> None:
    config = OrchestratorConfig(
        mode=OrchestratorMode.TEST, heartbeat_interval_seconds=7, allow_relaxed_durability=False
    )
    assert config.heartbeat_interval_seconds == 7
    assert config.allow_relaxed_durability is False


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        OrchestratorConfig().batch_max = 1  # type: ignore[misc]


def test_all_mistakes_are_reported_at_once() -> None:
    settings: dict[str, Any] = {
        "mode": "prod",
        "pools": ["fine", "Not Fine"],
        "heartbeat_interval_seconds": "5",
        "http_port": 70_000,
        "nats": {"ulr": "nats://x"},
        "roles": {"a.b": {}, "tester": {"command": [], "env_allow": ["CALLBOARD_AGENT_ID"], "slots": 0}},
        "limits": 5,
    }
    assert set(_mistakes(**settings)) == {
        "mode",
        "pools[1]",
        "heartbeat_interval_seconds",
        "http_port",
        "nats.ulr",
        "roles.a.b",
        "roles.tester.command",
        "roles.tester.env_allow[0]",
        "roles.tester.slots",
        "limits",
    }


def test_the_error_is_one_line_and_one_of_the_vocabulary() -> None:
    with pytest.raises(ConfigurationError) as refusal:
        OrchestratorConfig(batch_max=0, http_port=-1)
    assert refusal.value.code == "configuration_error"
    assert "\n" not in str(refusal.value)
    assert "2 mistakes" in str(refusal.value)
    assert refusal.value.details["mistakes"][0] == {
        "path": "batch_max",
        "message": "expected `int` >= 1",
        "value": "0",
        "source": None,
    }


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        ({"mode": "production", "enable_database_persistence": False}, "enable_database_persistence"),
        ({"mode": "production", "log_format": "console"}, "log_format"),
        ({"pools": ["a", "a"]}, "pools"),
        ({"batch_max": 100, "max_queued_tasks": 99}, "batch_max"),
        ({"key_retention_seconds": 86_401, "retention_days": 1}, "key_retention_seconds"),
        ({"reply_prefixes": ["callboard.v1."]}, "reply_prefixes"),
        ({"prefix": "x", "reply_prefixes": ["_INBOX.", "x."]}, "reply_prefixes"),
    ],
)
def test_settings_that_do_not_go_together(settings: dict[str, Any], path: str) -> None:
    assert set(_mistakes(**settings)) == {path}


@pytest.mark.parametrize(
    "settings",
    [
        {"lease_intervals": 1},
        {"heartbeat_interval_seconds": float("nan")},
        {"heartbeat_interval_seconds": float("inf")},
        {"heartbeat_interval_seconds": True},
        {"spawn_timeout_seconds": 0},
        {"pools": []},
        {"pools": ["a.b"]},
        {"prefix": "a.b"},
        {"reply_prefixes": ["_INBOX"]},
        {"reply_prefixes": [">."]},
        {"roles": {"x": {"command": ["a\0b"]}}},
        {"offer_repeat_ms": [0]},
        {"batch_max": 10**30},
        {"log_level": "verbose"},
    ],
)
def test_values_that_are_refused(settings: dict[str, Any]) -> None:
    assert len(_mistakes(**settings)) == 1


def test_a_mistaken_setting_is_not_measured_against_others() -> None:
    assert set(_mistakes(mode="production", log_format="yaml")) == {"log_format"}


def test_groups_may_be_given_as_structs_or_tables() -> None:
    as_structs = OrchestratorConfig(nats=NatsSettings(url="nats://h"), roles={"a": RoleSettings(slots=2)}, replica="r")
    as_tables: dict[str, Any] = {"nats": {"url": "nats://h"}, "roles": {"a": {"slots": 2}}, "replica": "r"}
    assert OrchestratorConfig(**as_tables) == as_structs


def test_structs_are_checked_too() -> None:
    assert set(_mistakes(roles={"a": RoleSettings(slots=0)})) == {"roles.a.slots"}


def test_a_representation_holds_no_secret() -> None:
    config = OrchestratorConfig(
        nats=NatsSettings(url="nats://user:hunter2@h", password="hunter2", token="hunter2"),  # noqa: S106 - a decoy
        database_url="postgresql://u:hunter2@h/d",
    )
    assert "hunter2" not in repr(config)


@pytest.mark.parametrize("url", ["mysql://u:hunter2@h/d", "postgres ql://u:hunter2@h/d", "u:hunter2@h"])
def test_an_address_that_is_none_of_postgres_is_quoted_without_its_secret(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        OrchestratorConfig(database_url=url)
    assert "postgresql://" in str(refused.value)
    assert "hunter2" not in str(refused.value) + repr(refused.value.details)


def test_a_mistake_quotes_no_secret() -> None:
    settings: dict[str, Any] = {"database_url": ["postgresql://u:hunter2@h"], "nats": {"password": ["hunter2"]}}
    with pytest.raises(ConfigurationError) as refusal:
        OrchestratorConfig(**settings)
    assert "hunter2" not in str(refusal.value)


def test_addresses_are_completed_from_the_environment() -> None:
    config = OrchestratorConfig(mode=OrchestratorMode.PRODUCTION)
    with pytest.raises(ConfigurationError) as refusal:
        complete_addresses(config, {})
    assert [mistake["path"] for mistake in refusal.value.details["mistakes"]] == ["nats.url", "database_url"]
    completed = complete_addresses(config, {"NATS_URL": "nats://h", "NATS_USER": "u", "DATABASE_URL": "postgresql://h"})
    assert (completed.nats.url, completed.nats.user) == ("nats://h", "u")
    assert completed.database_url == "postgresql://h"


def test_a_given_address_is_kept() -> None:
    config = OrchestratorConfig(nats=NatsSettings(url="nats://mine"), database_url="postgresql://mine")
    assert complete_addresses(config, {"NATS_URL": "nats://theirs", "DATABASE_URL": "postgresql://theirs"}) == config
