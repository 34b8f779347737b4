from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from callboard.orchestrator.config import (
    InvalidSettingsError,
    LoadedConfig,
    LogLevel,
    OrchestratorMode,
    describe,
    load_config,
    settings_reference,
)
from callboard.orchestrator.config.secrets import hide_in_url

if TYPE_CHECKING:
    from pathlib import Path


def _load(tmp_path: Path, toml: str = "", arguments: dict[str, object] | None = None, **environ: str) -> LoadedConfig:
    file = tmp_path / "callboard.toml"
    file.write_text(toml)
    return load_config(file=file, environ=environ, arguments=arguments)


def _mistakes(tmp_path: Path, toml: str = "", **environ: str) -> dict[str, tuple[str, str | None]]:
    with pytest.raises(InvalidSettingsError) as refusal:
        _load(tmp_path, toml, None, **environ)
    return {mistake.path: (mistake.message, mistake.source) for mistake in refusal.value.mistakes}


def test_later_sources_win_setting_by_setting(tmp_path: Path) -> None:
    loaded = _load(
        tmp_path,
        'log_level = "error"\nbatch_max = 7\n[nats]\nurl = "nats://file"\nuser = "file"\n[roles.tester]\nslots = 3',
        {"log_level": "debug", "nats.context": None},
        CALLBOARD_LOG_LEVEL="warning",
        CALLBOARD_NATS__URL="nats://environment",
        CALLBOARD_ROLES__TESTER__GRACE_SECONDS="2.5",
    )
    config = loaded.config
    assert config.log_level is LogLevel.DEBUG
    assert config.batch_max == 7
    assert (config.nats.url, config.nats.user) == ("nats://environment", "file")
    assert (config.roles["tester"].slots, config.roles["tester"].grace_seconds) == (3, 2.5)
    assert loaded.sources["log_level"] == "argument"
    assert loaded.sources["nats.url"] == "environment CALLBOARD_NATS__URL"
    assert loaded.sources["nats.user"] == f"file {tmp_path / 'callboard.toml'}"


@pytest.mark.parametrize("url", ["http://h", "nats://h:99999", "nats://h:x", "nats://", "nats://a,ftp://b", ","])
def test_an_address_that_nats_cannot_have_is_a_mistake(tmp_path: Path, url: str) -> None:
    message = "must be nats://host:port or tls://host:port, several parted by commas"
    assert _mistakes(tmp_path, NATS_URL=url) == {"nats.url": (message, "environment NATS_URL")}


@pytest.mark.parametrize("url", ["h", "h:1", "nats://t@h", "tls://u:p@[::1]:4222", "nats://a:1, tls://b"])
def test_an_address_that_can_be_dialled_is_taken(tmp_path: Path, url: str) -> None:
    assert _load(tmp_path, NATS_URL=url).config.nats.url == url


def test_a_mistaken_address_shows_no_password(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettingsError) as refusal:
        _load(tmp_path, NATS_URL="nats://u:hunt,er2@h:99999")
    assert "er2" not in str(refusal.value)
    assert "hunt" not in str(refusal.value)


def test_the_environment_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("batch_max = 9")
    assert load_config(environ={"CALLBOARD_CONFIG": str(file)}).config.batch_max == 9


@pytest.mark.parametrize(
    ("variable", "text", "name", "value"),
    [
        ("CALLBOARD_MODE", "test", "mode", OrchestratorMode.TEST),
        ("CALLBOARD_POOLS", "a, b", "pools", ("a", "b")),
        ("CALLBOARD_POOLS", '["a", "b"]', "pools", ("a", "b")),
        ("CALLBOARD_OFFER_REPEAT_MS", "1,2", "offer_repeat_ms", (1, 2)),
        ("CALLBOARD_ENABLE_CACHING", "true", "enable_caching", True),
        ("CALLBOARD_ENABLE_CACHING", "0", "enable_caching", False),
        ("CALLBOARD_HEARTBEAT_INTERVAL_SECONDS", "2", "heartbeat_interval_seconds", 2.0),
        ("CALLBOARD_BATCH_MAX", "", "batch_max", 128),
        ("DATABASE_URL", "postgresql://h", "database_url", "postgresql://h"),
    ],
)
def test_texts_of_the_environment_become_values(variable: str, text: str, name: str, value: object) -> None:
    assert getattr(load_config(environ={variable: text}).config, name) == value


def test_a_role_from_the_environment() -> None:
    environ = {"CALLBOARD_ROLES__TESTER__COMMAND": '["python", "-m", "x"]', "CALLBOARD_ROLES__TESTER__ENV_ALLOW": "A,B"}
    role = load_config(environ=environ).config.roles["tester"]
    assert role.command == ("python", "-m", "x")
    assert role.env_allow == ("A", "B")
    whole = load_config(environ={"CALLBOARD_ROLES": '{"Big-Role": {"slots": 4}}'}).config
    assert whole.roles["Big-Role"].slots == 4


def test_our_names_win_over_the_usual_ones() -> None:
    environ = {"NATS_URL": "nats://usual", "CALLBOARD_NATS__URL": "nats://ours"}
    loaded = load_config(environ=environ)
    assert loaded.config.nats.url == "nats://ours"
    assert loaded.sources["nats.url"] == "environment CALLBOARD_NATS__URL"


@pytest.mark.parametrize(
    "variable",
    [
        "CALLBOARD_AGENT_ID",
        "CALLBOARD_POOL",
        "CALLBOARD_SERVICE_HOST",
        "CALLBOARD_SERVICE_PORT_HTTP",
        "CALLBOARD_PORT",
        "CALLBOARD_PORT_8420_TCP_ADDR",
    ],
)
def test_variables_of_agents_and_of_kubernetes_are_not_settings(variable: str) -> None:
    assert load_config(environ={variable: "tcp://10.0.0.1:8420"}).sources == {}


def test_mistakes_of_all_sources_come_together(tmp_path: Path) -> None:
    file = f"file {tmp_path / 'callboard.toml'}"
    found = _mistakes(
        tmp_path,
        'mode = "production"\nbatch_maxx = 7\nlease_intervals = "3"\n[nats]\nurls = "x"',
        CALLBOARD_POOLS="ok,NO",
        CALLBOARD_LOG_FORMAT="console",
        CALLBOARD_LIMITS__PAYLOAD_BYTE="5",
    )
    assert found == {
        "batch_maxx": ("unknown setting, did you mean 'batch_max'?", file),
        "lease_intervals": ("expected `int`, got `str`", file),
        "nats.urls": ("unknown setting, did you mean 'url'?", file),
        "pools[1]": (
            "expected lower-case letters, digits, _ and -, 1 to 32 of them",
            "environment CALLBOARD_POOLS",
        ),
        "limits.payload_byte": (
            "unknown setting, did you mean 'payload_bytes'?",
            "environment CALLBOARD_LIMITS__PAYLOAD_BYTE",
        ),
        "log_format": ("must be json in production", "environment CALLBOARD_LOG_FORMAT"),
        "database_url": ("must be given in production: set DATABASE_URL", None),
    }


@pytest.mark.parametrize(
    ("variable", "text", "choices"),
    [
        ("CALLBOARD_MODE", "prod", "development, staging, production, test"),
        ("CALLBOARD_LOG_LEVEL", "verbose", "debug, info, warning, error"),
        ("CALLBOARD_LOG_FORMAT", "text", "console, json"),
    ],
)
def test_what_is_no_choice_is_told_the_choices(tmp_path: Path, variable: str, text: str, choices: str) -> None:
    [(message, source)] = _mistakes(tmp_path, **{variable: text}).values()
    assert (message, source) == (f"expected one of {choices}", f"environment {variable}")


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("CALLBOARD_BATCHMAX", "'batch_max'"),
        ("CALLBOARD_NATS_URL", "'nats.url' (CALLBOARD_NATS__URL)"),
        ("CALLBOARD_EVENTS_STREAM", "'events.stream' (CALLBOARD_EVENTS__STREAM)"),
        ("CALLBOARD_HEARTBEAT", "'heartbeat_interval_seconds'"),
        ("CALLBOARD_STRATEGY", "'default_task_assignment_strategy'"),
        ("CALLBOARD_NATS__URI", "'url'"),
    ],
)
def test_an_unknown_setting_is_told_the_one_that_was_meant(tmp_path: Path, variable: str, meant: str) -> None:
    [(message, _)] = _mistakes(tmp_path, **{variable: "x"}).values()
    assert message == f"unknown setting, did you mean {meant}?"


def test_an_unknown_setting_that_resembles_none_is_told_all(tmp_path: Path) -> None:
    [(message, _)] = _mistakes(tmp_path, "[nats]\nxyzzy = 1").values()
    assert message.startswith("unknown setting; known are ca, cert, context, ")


def test_production_starts_with_explicit_addresses() -> None:
    environ = {"CALLBOARD_MODE": "production", "NATS_CONTEXT": "prod", "DATABASE_URL": "postgresql://h"}
    assert load_config(environ=environ).config.mode is OrchestratorMode.PRODUCTION


def test_a_file_that_cannot_be_read_is_a_mistake(tmp_path: Path) -> None:
    assert "not TOML" in _mistakes(tmp_path, "mode = ")["--config"][0]
    with pytest.raises(InvalidSettingsError, match="No such file"):
        load_config(file=tmp_path / "none.toml", environ={})


@pytest.mark.parametrize(
    "environ",
    [
        {"CALLBOARD_POOLS": "[1"},
        {"CALLBOARD_ROLES": "{"},
        {"CALLBOARD_ROLES": "tester"},
        {"CALLBOARD_NATS__URL__X": "y"},
        {"CALLBOARD_NATS": "x", "CALLBOARD_NATS__URL": "nats://h"},
        {"CALLBOARD_": "x"},
        {"CALLBOARD_MODE__X": "y"},
    ],
)
def test_variables_that_make_no_sense(environ: dict[str, str]) -> None:
    with pytest.raises(InvalidSettingsError):
        load_config(environ=environ)


def test_what_is_shown_hides_secrets_and_tells_sources() -> None:
    environ = {"DATABASE_URL": "postgresql://u:hunter2@h/d", "NATS_PASSWORD": "hunter2", "CALLBOARD_BATCH_MAX": "9"}
    loaded = load_config(environ=environ)
    shown = {setting.name: setting for setting in describe(loaded.config, loaded.sources)}
    assert "hunter2" not in repr(shown)
    assert shown["database_url"].value == "postgresql://***@h/d"
    assert shown["nats.password"].value == "***"
    assert (shown["batch_max"].value, shown["batch_max"].source) == (9, "environment CALLBOARD_BATCH_MAX")
    assert shown["log_level"].source == "preset development"
    assert shown["retention_days"].source == "default"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("nats://h:4222", "nats://h:4222"),
        ("nats://token@h", "nats://***@h"),
        ("nats://u:p,w/@x@h,tls://t@k", "nats://***@h,tls://***@k"),
        ("u:p@h", "***@h"),
        ("postgresql+asyncpg://u:p@h/d?sslmode=require&password=x&a=b", "postgresql+asyncpg://***@h/d?sslmode=require&password=***&a=b"),
        ("host=h password=x", "host=h password=***"),
    ],
)  # fmt: skip
def test_secrets_in_addresses(url: str, shown: str) -> None:
    assert hide_in_url(url) == shown


def test_the_reference_tells_everything() -> None:
    rows = {row.name: row for row in settings_reference()}
    assert all(row.meaning for row in rows.values())
    assert {setting.name for setting in describe(load_config(environ={}).config)} <= set(rows)
    heartbeat = rows["heartbeat_interval_seconds"]
    assert heartbeat.variable == "CALLBOARD_HEARTBEAT_INTERVAL_SECONDS"
    assert heartbeat.defaults[OrchestratorMode.TEST] == "1.0"
    assert heartbeat.defaults[OrchestratorMode.PRODUCTION] == "5.0"
    assert rows["mode"].type == "development, staging, production, test"
    assert rows["nats.url"].variable == "CALLBOARD_NATS__URL, NATS_URL"
    assert rows["replica"].defaults[OrchestratorMode.TEST] == "<host>-<pid>"
    assert rows["roles.<name>.command"].type == "list of text"
