"""The commands that run or set up the orchestrator itself: dev, serve, migrate, config, demo, version.

Each hands over to the room that does the work and returns its exit status; nothing of the server is imported before.
"""

import msgspec

from callboard.cli.connection import default_data_dir
from callboard.cli.output import print_json, print_line, print_table
from callboard.cli.values import FilePath, Port
from callboard.schemas.errors import DatabaseOperationError, OrchestratorError, UnavailableError


def dev(
    *,
    data_dir: FilePath | None = None,
    nats_port: Port = 0,
    http_port: Port = 0,
    config: FilePath | None = None,
) -> int:
    """Run everything on this machine: a NATS server, a Postgres, the migrations, the orchestrator.

    Loopback only. It prints its addresses when it is ready; the other commands
    find them by themselves. Its state survives a restart; Ctrl-C stops it all.

    Args:
        data_dir: Where the state is kept; by default in the user's data directory.
        nats_port: Port of NATS; 0 takes a free one.
        http_port: Port of metrics and health; 0 takes a free one.
        config: A TOML file with settings.
    """
    from callboard.bus.child import EmbeddedServerError  # noqa: PLC0415 - see the module's rule
    from callboard.orchestrator.dev import run_dev  # noqa: PLC0415 - the same

    directory = data_dir or default_data_dir()
    try:
        return run_dev(data_dir=directory, nats_port=nats_port, http_port=http_port, config_file=config)
    except EmbeddedServerError as error:
        raise UnavailableError(str(error)) from None


def serve(*, config: FilePath | None = None) -> int:
    """Run the orchestrator against existing servers, as NATS_URL (or NATS_CONTEXT, ...) and DATABASE_URL say.

    Args:
        config: A TOML file with settings; the environment overrides it.
    """
    from callboard.orchestrator.serve import run_serve  # noqa: PLC0415 - see the module's rule

    return run_serve(config_file=config)


def migrate(*, database_url: str | None = None, config: FilePath | None = None) -> int:
    """Bring the database's tables up to date; several at once are safe.

    Args:
        database_url: Which database; else DATABASE_URL or the configuration's.
        config: A TOML file with settings; the environment overrides it.
    """
    from callboard.orchestrator.serve import run_migrate  # noqa: PLC0415 - see the module's rule

    try:
        return run_migrate(database_url=database_url, config_file=config)
    except OrchestratorError:
        raise
    except Exception as error:  # a driver's errors have no base class that this layer may import
        raise DatabaseOperationError(f"the database could not be brought up to date: {error}") from error


def config(*, config: FilePath | None = None, mode: str | None = None, json: bool = False) -> None:
    """Print the effective configuration and where each setting comes from, secrets hidden.

    Every mistake in it is reported at once.

    Args:
        config: A TOML file with settings; the environment overrides it.
        mode: The preset to start from: development, staging, production or test.
        json: Print it as one JSON document.
    """
    from callboard.orchestrator.config import describe, load_config  # noqa: PLC0415 - see the module's rule

    loaded = load_config(file=config, arguments={"mode": mode})
    settings = describe(loaded.config, loaded.sources)
    if json:
        print_json(settings)
    else:
        rows = ((setting.name, _toml(setting.value), setting.source) for setting in settings)
        print_table(("SETTING", "VALUE", "FROM"), rows)


def demo(*, modules: int | None = None, keep: bool = False) -> int:
    """Watch it work: a fleet of agents measures the Python standard library, and survives a killed agent.

    Exits with 0 only if every task succeeded and every number was checked.

    Args:
        modules: How many modules to take; all by default.
        keep: Keep the temporary directory with the logs.
    """
    from callboard.demo.run import run_demo  # noqa: PLC0415 - see the module's rule

    return run_demo(modules=modules, keep=keep)


def show_version() -> None:
    """Print the version."""
    from importlib.metadata import version  # noqa: PLC0415 - costs a sixth of the start

    print_line(f"callboard {version('callboard')}")


def _toml(value: object) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()
