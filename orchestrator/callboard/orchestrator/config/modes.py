"""The modes and what each one presets: only the settings whose default depends on the mode; the rest is in `model`.

| mode | meant for | addresses | persistence |
|---|---|---|---|
| `development` | one laptop: quick heartbeats, logs for people | may be left out: embedded servers | may be off |
| `test` | suites: quick heartbeats, quiet, an unsafe but fast database is allowed | may be left out | may be off |
| `staging` | production's timings and logs, with more detail | may be left out | may be off |
| `production` | real work: nothing is guessed | must be given | always on |
"""

from enum import StrEnum
from typing import Any, Final


class OrchestratorMode(StrEnum):
    """Where the orchestrator runs; selects the preset."""

    DEVELOPMENT = "development"
    STAGING = "staging"
    PRODUCTION = "production"
    TEST = "test"


class LateResults(StrEnum):
    """What becomes of the result of an attempt that was given up, while its task waits for another one."""

    ADOPT = "adopt"
    REFUSE = "refuse"


class LogFormat(StrEnum):
    """`console` for people (colours on a terminal only), `json` for programs."""

    CONSOLE = "console"
    JSON = "json"


class LogLevel(StrEnum):
    """The least severe events that are written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


PRESETS: Final[dict[OrchestratorMode, dict[str, Any]]] = {
    OrchestratorMode.DEVELOPMENT: {
        "allow_relaxed_durability": False,
        "heartbeat_interval_seconds": 1.0,
        "http_port": 0,
        "log_format": LogFormat.CONSOLE,
        "log_level": LogLevel.INFO,
    },
    OrchestratorMode.TEST: {
        "allow_relaxed_durability": True,
        "heartbeat_interval_seconds": 1.0,
        "http_port": 0,
        "log_format": LogFormat.CONSOLE,
        "log_level": LogLevel.WARNING,
    },
    OrchestratorMode.STAGING: {
        "allow_relaxed_durability": False,
        "heartbeat_interval_seconds": 5.0,
        "http_port": 8420,
        "log_format": LogFormat.JSON,
        "log_level": LogLevel.DEBUG,
    },
    OrchestratorMode.PRODUCTION: {
        "allow_relaxed_durability": False,
        "heartbeat_interval_seconds": 5.0,
        "http_port": 8420,
        "log_format": LogFormat.JSON,
        "log_level": LogLevel.INFO,
    },
}
"""Mode to the values of the settings that depend on it; every mode lists the same settings."""
