"""The demonstration: a fleet of agents measures the standard library, and loses an agent half-way, but no task.

It uses what everybody can use: the commands `callboard dev` and `callboard agent exec`, an agent made with the SDK
(`agent.py`), and `Client`. It succeeds only if every task did and every result equals a plain sequential run's.
"""

import asyncio
import shutil
import signal
import tempfile
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, Final, TextIO

import structlog

from callboard.bus.child import EmbeddedServerError
from callboard.bus.client import Client
from callboard.bus.options import BusOptions
from callboard.demo.batch import Batch, until_online
from callboard.demo.check import find_faults, find_miscounts, measure_sequentially
from callboard.demo.fleet import FLEET, VICTIM, DemoError, Fleet
from callboard.demo.jobs import Job, count_by_kind, find_modules, make_jobs
from callboard.demo.live import Live
from callboard.demo.report import agent_rows, agent_table, package_rows, package_table
from callboard.schemas.errors import OrchestratorError

_TERMINATED: Final = 128 + signal.SIGTERM
_FAULTS_SHOWN: Final = 20


def run_demo(*, modules: int | None = None, keep: bool = False) -> int:
    """Run it all, from starting the servers to removing every trace of them.

    Args:
        modules: Take only so many modules, the largest.
        keep: Leave the temporary directory with the data and the logs; a failure leaves it in any case.

    Returns:
        The exit status: 0 when every task succeeded and every number was checked, 1 when not, 143 after SIGTERM.

    Raises:
        ConfigurationError: There is nothing to measure.
    """
    jobs = make_jobs(find_modules(modules))
    directory = Path(tempfile.mkdtemp(prefix="callboard-demo-"))
    try:
        with (directory / "demo.log").open("w") as log:
            _log_to(log)
            live = Live(count_by_kind(jobs))
            succeeded = asyncio.run(_until_terminated(_succeeds(jobs, directory, live)))
            keep = keep or not succeeded
            if keep:
                live.say(f"logs and data: {directory}")
    except asyncio.CancelledError:
        return _TERMINATED
    except Exception:
        keep = True
        raise
    finally:
        if not keep:
            shutil.rmtree(directory)
    return 0 if succeeded else 1


async def _until_terminated(demonstration: Coroutine[Any, Any, bool]) -> bool:
    """Have SIGTERM end it as Ctrl-C does: by a cancel, which cleans up."""
    running = asyncio.ensure_future(demonstration)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    return await running


async def _succeeds(jobs: Sequence[Job], directory: Path, live: Live) -> bool:
    """Run it, and say what went wrong; whether nothing did."""
    faults: list[str] = []
    try:
        faults += await _demonstrate(jobs, directory, live)
    except* (DemoError, EmbeddedServerError, OrchestratorError) as errors:
        faults += _reasons(errors)
    for fault in faults[:_FAULTS_SHOWN]:
        live.say(f"wrong: {fault}")
    if faults[_FAULTS_SHOWN:]:
        live.say(f"wrong: {len(faults) - _FAULTS_SHOWN} more of them")
    return not faults


async def _demonstrate(jobs: Sequence[Job], directory: Path, live: Live) -> list[str]:
    """The whole story; returns what is wrong with the results."""
    counts = ", ".join(f"{count} {kind}" for kind, count in count_by_kind(jobs).items())
    live.say(f"{len(jobs)} tasks on the standard library's source: {counts}")
    with live:
        async with Fleet(directory) as fleet, asyncio.TaskGroup() as group:
            live.say("starting callboard dev: a NATS server, a Postgres, the orchestrator")
            url = await fleet.start_server()
            live.say(f"starting agents, each a process: {', '.join(member.agent_id for member in FLEET)}")
            await fleet.start_agents(FLEET, url)
            watching = group.create_task(fleet.watch())
            async with Client.connect(BusOptions(servers=(url,))) as client:
                await until_online(client, [member.agent_id for member in FLEET])
                live.say("all agents are online; submitting all tasks")
                ticking = group.create_task(live.tell_regularly())
                batch = Batch(jobs, client, fleet, live)
                await batch.run()
                live.say("the last task is finished")
                status = await client.status()
            watching.cancel()
            ticking.cancel()
    live.say("doing the same in one plain loop, to compare every result")
    expected = await measure_sequentially(jobs)
    faults = [*find_faults(batch.finished, expected), *find_miscounts(batch.finished, VICTIM, status)]
    if not faults:
        _show_tables(batch, live)
        live.say(f"all {len(jobs)} tasks succeeded, with the results of the plain loop")
    return faults


def _show_tables(batch: Batch, live: Live) -> None:
    results = {job: task.result_value() for job, task in batch.finished.items()}
    live.show(package_table(package_rows(results)))
    live.show(agent_table(agent_rows(batch.finished.values(), FLEET), FLEET, VICTIM))


def _reasons(errors: BaseExceptionGroup[BaseException]) -> list[str]:
    """One line for each error of a group and of the groups in it."""
    reasons: list[str] = []
    for error in errors.exceptions:
        reasons += _reasons(error) if isinstance(error, BaseExceptionGroup) else [str(error)]
    return reasons


def _log_to(log: TextIO) -> None:
    """The library's log lines go beside those of the other processes, not between the bars."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(log))
