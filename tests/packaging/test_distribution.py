"""The wheel: four portions of one namespace, what belongs to each, and a base that needs no server."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("dist")
    build = "import sys; from hatchling.build import build_wheel; build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(directory)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    (found,) = directory.glob("*.whl")
    return found


def test_the_wheel_holds_the_portions_and_no_init_of_the_namespace(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    packages = {name.split("/")[1] for name in names if name.startswith("callboard/")}
    assert packages == {"agents", "bus", "cli", "demo", "orchestrator", "schemas"}
    assert "callboard/__init__.py" not in names
    assert {name.split("/")[0] for name in names} - {"callboard"} == {f"{wheel.name.rsplit('-', 3)[0]}.dist-info"}


def test_every_portion_is_typed_and_the_migrations_travel_along(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"callboard/{package}/py.typed" for package in ("agents", "bus", "orchestrator", "schemas")} <= names
    assert any(name.startswith("callboard/orchestrator/store/migrations/versions/") for name in names)


def test_the_installed_command_prints_the_contract_that_travels_along(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    script = "import sys; from callboard.cli.main import run; sys.exit(run(['schema', sys.argv[1]]))"
    for name, file in (("asyncapi", "asyncapi"), ("TaskSpec", "json/TaskSpec"), ("tasks.get", "golden/tasks.get")):
        printed = subprocess.run(
            [sys.executable, "-c", script, name],
            cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        assert printed == (ROOT / "schemas" / f"{file}.json").read_text()
    installed = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.json")}
    assert len(installed) == len(list((ROOT / "schemas").glob("*/*.json"))) + 1


def test_agents_and_clients_need_none_of_the_servers_dependencies() -> None:
    absent = ("alembic", "asyncpg", "cyclopts", "prometheus_client", "rich", "sqlalchemy", "starlette", "uvicorn")
    script = (
        f"import sys; sys.modules.update(dict.fromkeys({absent!r}))\n"  # None there makes an import fail
        "import callboard.agents, callboard.agents.echo, callboard.bus.client\n"
        "from callboard.orchestrator import AgentRole, Client, OrchestratorConfig, TaskPriority"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_documentation_is_as_the_code_says() -> None:
    subprocess.run([sys.executable, "docs/generate.py", "--check"], cwd=ROOT, check=True)


def test_compose_is_valid_by_the_schema_of_the_specification() -> None:
    check = ["-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml"]
    subprocess.run([sys.executable, *check], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
