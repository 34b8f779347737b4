"""`python -m tests.chaos --minutes 10 --seed 7`: real processes under real faults, and the check of their history.

The seed is printed first, a line on how far it is every 10 s, a table at the end. Exit status 1 when a rule was broken;
the history and all logs are kept then, at the path that is printed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random, SystemRandom
from typing import TYPE_CHECKING, Final

from tests.chaos import database_log
from tests.chaos.clients import Clients
from tests.chaos.facts import gather
from tests.chaos.faults import Faults
from tests.chaos.history import Began, Healed, read
from tests.chaos.report import report
from tests.chaos.rig import Agents, Rig, tick
from tests.chaos.schedule import Schedule
from tests.support.nats_cluster import NatsCluster

from callboard.bus.embedded import EmbeddedNats
from callboard.bus.logs import default_to_standard_error
from callboard.orchestrator.store.embedded import EmbeddedPostgres
from callboard.schemas.errors import OrchestratorError

if TYPE_CHECKING:
    from collections.abc import Sequence

RATE: Final = 30.0
"""Submits in a second."""
PROGRESS_S: Final = 10.0
DRAIN_S: Final = 120.0
TMPFS_MIB: Final = 2048
POSTGRES: Final = {**database_log.SETTINGS, "max_wal_size": "128MB", "min_wal_size": "32MB"}


def say(text: str) -> None:
    """A line, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


class Run:
    """One long run."""

    def __init__(self, directory: Path, *, seed: int, minutes: float, processes: int, nodes: int) -> None:
        self._directory = directory
        self._seed, self._minutes = seed, minutes
        self._processes, self._nodes = processes, nodes

    async def play(self) -> bool:
        """The whole run; whether no rule was broken."""
        async with AsyncExitStack() as stack:
            has_own_disk = _mounted(self._directory / "postgres")
            if has_own_disk:
                stack.callback(_unmount, self._directory / "postgres")
            else:
                say("NOT INJECTED: disk full (needs root and a tmpfs of its own)")
            nats = await self._nats(stack)
            postgres = EmbeddedPostgres(self._directory / "postgres", settings=POSTGRES)
            await stack.enter_async_context(postgres)
            late_results = Random(self._seed).choice(("refuse", "adopt"))  # noqa: S311 - a plan, no secret
            say(f"late results: {late_results}")
            rig = Rig(
                self._directory, nats, postgres, "postgres", replicas=3, processes=self._processes, agents=2, slots=2,
                settings={"CALLBOARD_LATE_RESULTS": late_results},
            )  # fmt: skip
            rig.history.write(Began(late_results=late_results))
            await stack.enter_async_context(rig)
            clients = await self._inject(rig, can_fill_disk=has_own_disk)
            await rig.export()
        facts = gather(read(self._directory / "history.jsonl"))
        text, violations = report(facts, errors=clients.errors)
        say(text)
        return not violations

    async def _nats(self, stack: AsyncExitStack) -> Sequence[EmbeddedNats]:
        if self._nodes > 1:
            return (await stack.enter_async_context(NatsCluster(self._directory, size=self._nodes))).nodes
        return [await stack.enter_async_context(EmbeddedNats(self._directory / "nats", token=None, jetstream=False))]

    async def _inject(self, rig: Rig, *, can_fill_disk: bool) -> Clients:
        faults = Faults(rig)
        clients = Clients(rig.client, rig.history, Random(self._seed))  # noqa: S311 - a load, no secret
        plan = Random(self._seed + 1)  # noqa: S311 - a plan, no secret
        schedule = Schedule(rig, faults, clients, plan, rate=RATE, disk_can_be_full=can_fill_disk)
        beside = [
            asyncio.create_task(clients.keep_submitting(RATE)),
            asyncio.create_task(clients.keep_answering()),
            asyncio.create_task(self._tell(faults, schedule, clients)),
            *(asyncio.create_task(_replace_the_dead(faults, agents)) for agents in rig.agents),
        ]
        try:
            await schedule.run(asyncio.get_running_loop().time() + self._minutes * 60)
            beside[0].cancel()
            rig.history.write(Healed())
            await clients.finish()
            await _drain(rig)
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
            await clients.abandon()
        return clients

    async def _tell(self, faults: Faults, schedule: Schedule, clients: Clients) -> None:
        began = time.monotonic()
        while True:
            await asyncio.sleep(PROGRESS_S)
            say(
                f"{time.monotonic() - began:6.0f} s  {faults.count:4} faults  {clients.submitted:6} submits"
                f"  now: {schedule.under_way}"
            )


async def _replace_the_dead(faults: Faults, agents: Agents) -> None:
    """Start agents again that died of a task. Those that a fault killed are its own affair."""
    while True:
        await tick()
        if agents.process is not None and not agents.is_running and not agents.is_down_on_purpose:
            async with faults.agents_died(agents):
                pass


async def _drain(rig: Rig) -> None:
    """Wait until nothing is left to do; what is left after that is for the checker to tell."""
    try:
        async with asyncio.timeout(DRAIN_S):
            while await rig.live_tasks():
                await tick()
    except (TimeoutError, OrchestratorError) as error:
        say(f"the backlog is not drained after {DRAIN_S:.0f} s: {error!r}")


def _mounted(path: Path) -> bool:
    """Make `path` a file system of its own, if this is allowed here."""
    path.mkdir(mode=0o700)
    mount = shutil.which("mount")
    if os.geteuid() != 0 or mount is None:
        return False
    command = [mount, "-t", "tmpfs", "-o", f"size={TMPFS_MIB}m,mode=0700", "chaos", str(path)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def _unmount(path: Path) -> None:
    umount = shutil.which("umount")
    if umount is not None:
        subprocess.run([umount, str(path)], check=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long faults are injected")
    parser.add_argument("--seed", type=int, default=None, help="of the plan and of the load; drawn when absent")
    parser.add_argument("--processes", type=int, default=10, help="of agents, two in each")
    parser.add_argument("--nats-nodes", type=int, default=1, help="nats-servers; more than one are a cluster")
    parser.add_argument("--keep", action="store_true", help="keep the history and the logs of a clean run, too")
    return parser.parse_args()


def main() -> int:
    """Run once; 1 when a rule was broken."""
    wanted = arguments()
    seed = SystemRandom().randrange(1_000_000) if wanted.seed is None else wanted.seed
    directory = Path(tempfile.mkdtemp(prefix="callboard-chaos-"))
    directory.chmod(0o755)
    say(f"seed {seed}, {wanted.minutes:g} minutes, history {directory / 'history.jsonl'}")
    default_to_standard_error()
    run = Run(directory, seed=seed, minutes=wanted.minutes, processes=wanted.processes, nodes=wanted.nats_nodes)
    is_clean = asyncio.run(run.play())
    if is_clean and not wanted.keep:
        shutil.rmtree(directory)
    else:
        say(f"seed {seed} {'broke no' if is_clean else 'broke a'} rule; its history and logs are in {directory}")
    return 0 if is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
