"""The effective configuration as it may be shown, and the reference table of all settings for the documentation."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

import msgspec

from callboard.orchestrator.config.environment import USUAL_NAMES, variable_of
from callboard.orchestrator.config.fields import Field, fields_of, type_text
from callboard.orchestrator.config.model import OrchestratorConfig
from callboard.orchestrator.config.modes import PRESETS, OrchestratorMode
from callboard.orchestrator.config.secrets import hide

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@dataclass(frozen=True, slots=True)
class EffectiveSetting:
    """One setting as it is in force: JSON values only, secrets hidden."""

    name: str
    value: Any
    source: str


def describe(config: OrchestratorConfig, sources: Mapping[str, str] | None = None) -> list[EffectiveSetting]:
    """Every setting in force, in the order of the reference, groups by dotted path.

    Args:
        config: The configuration.
        sources: Path to source, as `LoadedConfig.sources`; what is not in it is called a preset or a default.
    """
    given = sources or {}
    shown = []
    for path, field, value in _settings(config):
        preset = f"preset {config.mode}" if path in PRESETS[config.mode] else "default"
        plain = msgspec.to_builtins(hide(value, field.secret))
        shown.append(EffectiveSetting(path, plain, given.get(path, preset)))
    return shown


def _settings(struct: msgspec.Struct, above: str = "") -> Iterator[tuple[str, Field, Any]]:
    for name, field in fields_of(type(struct)).items():
        value = getattr(struct, name)
        if field.group is None:
            yield above + name, field, value
        elif field.is_table:
            for entry, group in value.items():
                yield from _settings(group, f"{above}{name}.{entry}.")
        else:
            yield from _settings(value, f"{above}{name}.")


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One line of the reference: defaults as text, by mode."""

    name: str
    variable: str
    type: str
    defaults: Mapping[OrchestratorMode, str]
    meaning: str


def settings_reference() -> list[SettingRow]:
    """Every setting there is, in the order of `OrchestratorConfig`; `<name>` stands for the key of a table."""
    return list(_rows(OrchestratorConfig, ""))


def _rows(struct: type[msgspec.Struct], above: str) -> Iterator[SettingRow]:
    defaults = {field.name: field.default for field in msgspec.structs.fields(struct)}
    for name, field in fields_of(struct).items():
        path = above + name
        if field.group is not None:
            yield from _rows(field.group, f"{path}.<name>." if field.is_table else f"{path}.")
            continue
        usual = [variable for variable, setting in USUAL_NAMES.items() if setting == path]
        yield SettingRow(
            name=path,
            variable=", ".join([variable_of(path), *usual]),
            type=type_text(field.type),
            defaults={
                mode: field.default_text or _text(PRESETS[mode].get(path, defaults[name])) for mode in OrchestratorMode
            },
            meaning=field.meaning,
        )


def _text(default: object) -> str:
    if default is None:
        return ""
    if isinstance(default, Enum):
        return str(default.value)
    return msgspec.json.encode(default).decode() if not isinstance(default, str) else default
