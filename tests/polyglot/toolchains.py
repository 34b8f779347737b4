"""Toolchains of other languages: what they build goes below `build/polyglot`, where it is found again.

What is missing is a visible skip on a developer's machine and a failure in CI, where everything must have been tried.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

REPOSITORY: Final = Path(__file__).parents[2]
BUILD: Final = REPOSITORY / "build" / "polyglot"
NATSCLI_VERSION: Final = "v0.5.1"
BUILD_WITHIN_S: Final = 900


def require(*programs: str) -> None:
    """Skip the test, or fail it in CI, when one of `programs` is not installed."""
    missing = [program for program in programs if shutil.which(program) is None]
    if not missing:
        return
    reason = f"not installed: {', '.join(missing)}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def run(*command: str | Path, cwd: Path, **variables: str) -> None:
    """A step of a build.

    Raises:
        AssertionError: it failed; with the end of its output.
    """
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **variables}, check=False,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=BUILD_WITHIN_S,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}: {done.stdout[-4000:]}"


def rustup_home() -> dict[str, str]:
    """Where rustup's toolchains are, when they are not in this user's home but in that of whoever installed cargo."""
    cargo = shutil.which("cargo")
    if cargo is None or "RUSTUP_HOME" in os.environ or (Path.home() / ".rustup" / "toolchains").exists():
        return {}
    installed = Path(cargo).parent.parent.with_name(".rustup")
    return {"RUSTUP_HOME": str(installed)} if installed.exists() else {}


def nats_cli() -> Path:
    """The real `nats` command of `NATSCLI_VERSION`, built from its source."""
    folder = BUILD / f"natscli-{NATSCLI_VERSION}"
    program = folder / "nats"
    if not program.exists():
        require("go")
        folder.mkdir(parents=True, exist_ok=True)
        run("go", "install", f"github.com/nats-io/natscli/nats@{NATSCLI_VERSION}", cwd=folder, GOBIN=str(folder))
    return program
