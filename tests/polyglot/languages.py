"""The agents under test: how each is built, how it is started, and what it cannot keep of the protocol.

Every one knows the same three task types: `echo` returns `{"echo": payload}` at once, `sleep` reports 50 % and returns
`{"slept_ms": n}` after `payload.ms` milliseconds, `fail` fails with the payload as its message.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Final

from tests.polyglot.toolchains import BUILD, REPOSITORY, nats_cli, require, run, rustup_home

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

AGENTS: Final = REPOSITORY / "agents"


@dataclass(frozen=True)
class Language:
    """One agent under test.

    Attributes:
        build: makes it ready and returns the command that starts it; called once.
        interval_ms: between heartbeats; a third of the lease that it must keep on a busy machine.
        exceptions: the tests that it does not pass, each with the reason.
    """

    build: Callable[[], list[str]]
    interval_ms: int = 400
    exceptions: dict[str, str] = field(default_factory=dict)


def fresh_copy(language: str) -> Path:
    """The sources below `build`, so that what a build leaves behind stays out of them; what is there already stays."""
    copy = BUILD / language
    shutil.copytree(AGENTS / language, copy, dirs_exist_ok=True)
    return copy


@cache
def python() -> list[str]:
    return [sys.executable, "-m", "tests.polyglot.python_agent"]


@cache
def go() -> list[str]:
    require("go")
    folder = fresh_copy("go")
    run("go", "vet", "./...", cwd=folder)
    run("go", "build", "-o", "agent", ".", cwd=folder)
    return [str(folder / "agent")]


@cache
def typescript() -> list[str]:
    require("node", "npm")
    folder = fresh_copy("typescript")
    run("npm", "ci", "--no-audit", "--no-fund", cwd=folder)
    run("npm", "run", "build", cwd=folder)
    return ["node", str(folder / "dist" / "main.js")]


@cache
def rust() -> list[str]:
    require("cargo")
    folder = fresh_copy("rust")
    run("cargo", "build", cwd=folder, **rustup_home())
    return [str(folder / "target" / "debug" / "callboard-agent")]


@cache
def java() -> list[str]:
    require("java", "mvn")
    folder = fresh_copy("java")
    run("mvn", "--quiet", "--batch-mode", "compile", cwd=folder)
    return [
        "java",
        "-XX:+UseSerialGC",
        "-cp",
        f"{folder}/target/classes:{folder}/target/dependency/*",
        "callboard.Main",
    ]


@cache
def shell() -> list[str]:
    require("bash", "jq")
    return ["env", f"PATH={nats_cli().parent}:/usr/local/bin:/usr/bin:/bin", "bash", str(AGENTS / "shell" / "agent.sh")]


LANGUAGES: Final[dict[str, Language]] = {
    "python": Language(python),
    "go": Language(go),
    "typescript": Language(typescript),
    "rust": Language(rust),
    "java": Language(java),
    "shell": Language(
        shell,
        interval_ms=1000,
        exceptions={"test_it_takes_a_large_payload": "the nats command hands over a request in a variable: 128 KiB"},
    ),
}
