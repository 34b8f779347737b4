"""Brings the sources together: TOML file, then environment, then arguments; the later wins, setting by setting."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from callboard.orchestrator.config.check import Checker, overlay
from callboard.orchestrator.config.environment import from_environment
from callboard.orchestrator.config.mistakes import InvalidSettingsError, Mistake
from callboard.orchestrator.config.model import OrchestratorConfig
from callboard.orchestrator.config.rules import missing_addresses

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

FILE_VARIABLE = "CALLBOARD_CONFIG"


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """A configuration, and where each given value comes from: path (`nats.url`) to source."""

    config: OrchestratorConfig
    sources: Mapping[str, str]


def load_config(
    *,
    file: str | Path | None = None,
    environ: Mapping[str, str] | None = None,
    arguments: Mapping[str, object] | None = None,
) -> LoadedConfig:
    """The configuration from all sources.

    Args:
        file: A TOML file; else `CALLBOARD_CONFIG` names it; else there is none.
        environ: The environment; the process's own by default.
        arguments: Path (`log_level`, `nats.url`) to value; `None` means not given.

    Raises:
        ConfigurationError: With every mistake of every source in `details.mistakes`.
    """
    environ = os.environ if environ is None else environ
    layers = _Layers()
    name = file or environ.get(FILE_VARIABLE)
    if name:
        layers.add_file(Path(name))
    layers.add_environment(environ)
    layers.add_arguments(arguments or {})
    return layers.settle()


def complete_addresses(config: OrchestratorConfig, environ: Mapping[str, str] | None = None) -> OrchestratorConfig:
    """`config`, the NATS and database addresses that it lacks taken from `NATS_*` and `DATABASE_URL`.

    For a configuration that was constructed, not loaded: it must be complete before anything connects.

    Raises:
        ConfigurationError: In production, when an address is still missing.
    """
    environ = os.environ if environ is None else environ
    usual = {name: text for name, text in environ.items() if not name.startswith("CALLBOARD_")}
    tree, _, _ = from_environment(OrchestratorConfig, usual)
    changes: dict[str, Any] = {}
    if config.nats.url is None and config.nats.context is None and "nats" in tree:
        changes["nats"] = overlay(tree["nats"], _given(config.nats))
    if config.database_url is None and "database_url" in tree:
        changes["database_url"] = tree["database_url"]
    if changes:
        config = msgspec.structs.replace(config, **changes)
    nats = config.nats
    if mistakes := list(missing_addresses(config.mode, nats.url or nats.context, config.database_url)):
        raise InvalidSettingsError(mistakes)
    return config


def _given(settings: msgspec.Struct) -> dict[str, Any]:
    return {
        field.name: value
        for field in msgspec.structs.fields(settings)
        if (value := getattr(settings, field.name)) != field.default
    }


class _Layers:
    """The tree of settings so far, the sources of its leaves, and all mistakes."""

    def __init__(self) -> None:
        self._tree: dict[str, Any] = {}
        self._sources: dict[str, str] = {}
        self._mistakes: list[Mistake] = []

    def add_file(self, file: Path) -> None:
        source = f"file {file}"
        try:
            raw = tomllib.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            self._mistakes.append(Mistake(path="--config", message=error.strerror or str(error), source=source))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            self._mistakes.append(Mistake(path="--config", message=f"not TOML: {error}", source=source))
        else:
            self._lay(raw, lambda _: source, lax=False)

    def add_environment(self, environ: Mapping[str, str]) -> None:
        raw, variables, mistakes = from_environment(OrchestratorConfig, environ)
        self._mistakes += mistakes
        self._lay(raw, lambda path: f"environment {_nearest(variables, path)}", lax=True)

    def add_arguments(self, arguments: Mapping[str, object]) -> None:
        raw: dict[str, Any] = {}
        for path, value in arguments.items():
            if value is not None:
                *groups, name = path.split(".")
                branch: dict[str, Any] = {name: value}
                for group in reversed(groups):
                    branch = {group: branch}
                raw = overlay(raw, branch)
        self._lay(raw, lambda _: "argument", lax=True)

    def _lay(self, raw: dict[str, Any], source_of: Callable[[str], str], *, lax: bool) -> None:
        checker = Checker(lax=lax, source_of=source_of)
        tree = checker.struct(OrchestratorConfig, raw)
        self._mistakes += checker.mistakes
        self._tree = overlay(self._tree, tree)
        self._sources |= {path: source_of(path) for path in _leaves(tree)}

    def settle(self) -> LoadedConfig:
        """The configuration, or everything that is wrong with it."""
        tree = self._tree
        mistaken = {mistake.setting for mistake in self._mistakes}
        config: OrchestratorConfig | None = None
        across: list[Mistake] = []
        try:
            config = OrchestratorConfig(**tree)
        except InvalidSettingsError as error:
            across += error.mistakes
        nats = tree.get("nats", {})
        across += missing_addresses(tree.get("mode"), nats.get("url") or nats.get("context"), tree.get("database_url"))
        # What a mistaken value would have been is unknown: nothing is said about its relation to others.
        across = [mistake for mistake in across if mistaken.isdisjoint((mistake.setting, *mistake.concerns))]
        mistakes = self._mistakes + [replace(mistake, source=self._sources.get(mistake.path)) for mistake in across]
        if config is None or mistakes:
            raise InvalidSettingsError(mistakes)
        return LoadedConfig(config, self._sources)


def _leaves(tree: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for name, value in tree.items():
        where = f"{path}.{name}" if path else name
        if isinstance(value, dict):
            yield from _leaves(value, where)
        else:
            yield where


def _nearest(variables: Mapping[str, str], path: str) -> str:
    """The variable that set `path`, as a whole or with what stands above it."""
    path = path.partition("[")[0]
    while path not in variables and "." in path:
        path = path.rpartition(".")[0]
    return variables.get(path, path)
