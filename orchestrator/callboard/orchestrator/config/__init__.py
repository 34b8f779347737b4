"""The configuration of the orchestrator.

Settings come from a TOML file (`--config` or `CALLBOARD_CONFIG`), then the environment (`CALLBOARD_…`, `NATS_…`,
`DATABASE_URL`), then arguments; the later wins. What nobody gave takes the preset of the mode.
"""

from callboard.orchestrator.config.describe import EffectiveSetting, SettingRow, describe, settings_reference
from callboard.orchestrator.config.load import LoadedConfig, complete_addresses, load_config
from callboard.orchestrator.config.mistakes import InvalidSettingsError, Mistake
from callboard.orchestrator.config.model import OrchestratorConfig
from callboard.orchestrator.config.modes import PRESETS, LateResults, LogFormat, LogLevel, OrchestratorMode
from callboard.orchestrator.config.sections import EventSettings, IntakeSettings, NatsSettings, RoleSettings, SizeLimits

__all__ = [
    "PRESETS",
    "EffectiveSetting",
    "EventSettings",
    "IntakeSettings",
    "InvalidSettingsError",
    "LateResults",
    "LoadedConfig",
    "LogFormat",
    "LogLevel",
    "Mistake",
    "NatsSettings",
    "OrchestratorConfig",
    "OrchestratorMode",
    "RoleSettings",
    "SettingRow",
    "SizeLimits",
    "complete_addresses",
    "describe",
    "load_config",
    "settings_reference",
]
