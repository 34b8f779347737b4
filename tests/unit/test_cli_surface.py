"""What every command owes its users: help with an example, a place in the documentation, a quick start, a status."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from callboard.cli.exits import ExitStatus, UsageError, status_of
from callboard.cli.main import app, run
from callboard.schemas.errors import ERRORS, InvalidRequestError, TaskFailedError

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "cli.md"
FLAGS = {*app.help_flags, *app.version_flags}


def commands() -> list[str]:
    """Every command as it is typed, e.g. `agent exec`."""
    found = []
    for name in app:
        if name in FLAGS:
            continue
        below = [below for below in app[name] if below not in FLAGS]
        found += [f"{name} {one}" for one in below] if below else [name]
    return found


def test_the_commands_are_the_agreed_ones() -> None:
    service = ["dev", "serve", "migrate", "config", "status", "demo", "schema", "version"]
    service += ["pool pause", "pool resume"]
    tasks = ["submit", "get", "list", "wait", "why", "cancel", "answer", "events", "retry"]
    agents = [
        "agents",
        "agent get",
        "agent exec",
        "agent llm",
        "agent synadia",
        "gateway",
        "spawn",
        "shutdown",
        "drain",
        "resume",
    ]
    assert sorted(commands()) == sorted(service + tasks + agents)


@pytest.mark.parametrize("command", commands())
def test_the_help_of_a_command_says_what_it_does_with_an_example(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*command.split(), "--help"]) == ExitStatus.OK
    shown = capsys.readouterr().out
    usage, _, rest = shown.partition("\n\n")
    assert usage.startswith(f"Usage: callboard {command}")
    assert rest[0].isupper()
    example = rest.partition("Example:\n")[2]
    assert f"callboard {command}" in example


@pytest.mark.parametrize("command", commands())
def test_a_command_is_documented_with_an_example(command: str) -> None:
    _, heading, section = DOCUMENTATION.read_text().partition(f"\n### `callboard {command}`\n")
    assert heading, f"docs/cli.md has no section for {command}"
    section = section.partition("\n### ")[0]
    assert f"callboard {command}" in section.partition("```console\n")[2].partition("```")[0]


def test_the_documentation_has_no_command_that_is_gone() -> None:
    headings = [line for line in DOCUMENTATION.read_text().splitlines() if line.startswith("### `callboard ")]
    assert sorted(headings) == sorted(f"### `callboard {command}`" for command in commands())


def test_the_documentation_has_every_exit_status() -> None:
    text = DOCUMENTATION.read_text()
    assert [status for status in ExitStatus if f"| {status.value} |" not in text] == []


def test_the_list_of_commands_says_what_each_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == ExitStatus.OK
    shown = capsys.readouterr().out
    for command in commands():
        if " " not in command:
            line = next(line for line in shown.splitlines() if line.startswith(f"│ {command} "))
            assert line.strip("│ ").removeprefix(command).strip()


@pytest.mark.parametrize(
    ("arguments", "forbidden"),
    [
        (["--help"], {"sqlalchemy", "asyncpg", "uvicorn", "starlette", "alembic", "nats", "structlog"}),
        (["get", "--help"], {"sqlalchemy", "asyncpg", "uvicorn", "starlette", "alembic", "nats", "structlog"}),
        (["version"], {"sqlalchemy", "asyncpg", "nats", "structlog"}),
        (
            ["get", "01993b5e-7c1a-7bd2-8f0e-3a1f5c2d9e10", "--nats-url", "nats://127.0.0.1:1", "--timeout", "1ms"],
            {"sqlalchemy", "asyncpg", "uvicorn", "starlette", "alembic", "prometheus_client"},
        ),
    ],
)
def test_a_command_imports_only_what_it_needs(arguments: list[str], forbidden: set[str]) -> None:
    script = (
        "import sys; from callboard.cli.main import run; run(sys.argv[1:]);"
        "print('\\nLOADED', *{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.rpartition("LOADED ")[2].split())
    assert "cyclopts" in loaded
    assert loaded & forbidden == set()


def test_every_error_has_its_status() -> None:
    statuses = {code: status_of(error()) for code, error in ERRORS.items()}
    assert statuses == {
        "invalid_request": ExitStatus.REFUSED,
        "configuration_error": ExitStatus.USAGE,
        "task_not_found": ExitStatus.REFUSED,
        "agent_not_found": ExitStatus.REFUSED,
        "stale_attempt": ExitStatus.REFUSED,
        "incarnation_replaced": ExitStatus.REFUSED,
        "unknown_incarnation": ExitStatus.REFUSED,
        "key_conflict": ExitStatus.REFUSED,
        "invalid_transition": ExitStatus.REFUSED,
        "payload_too_large": ExitStatus.REFUSED,
        "task_delegation_failed": ExitStatus.REFUSED,
        "resource_limit": ExitStatus.UNAVAILABLE,
        "unavailable": ExitStatus.UNAVAILABLE,
        "outcome_unknown": ExitStatus.UNAVAILABLE,
        "internal": ExitStatus.UNAVAILABLE,
    }
    assert status_of(TaskFailedError()) is ExitStatus.FAILED
    assert status_of(UsageError()) is ExitStatus.USAGE
    assert status_of(InvalidRequestError()) is ExitStatus.REFUSED
