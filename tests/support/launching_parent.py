"""A process that spawns one agent and waits, to be killed. Usage: launching_parent.py SOCKET."""

import asyncio
import sys
from pathlib import Path

from callboard.orchestrator.config import OrchestratorConfig, OrchestratorMode, RoleSettings
from callboard.orchestrator.launcher import Launcher
from callboard.schemas.agents import SpawnAgent

AGENT = str(Path(__file__).with_name("spawned_agent.py"))


async def main() -> None:
    roles = {"tester": RoleSettings(command=(sys.executable, AGENT, sys.argv[1]))}
    launcher = Launcher(OrchestratorConfig(mode=OrchestratorMode.TEST, roles=roles), agent_environment={})
    await launcher.spawn(SpawnAgent(role="tester"), pool="default")


if __name__ == "__main__":
    asyncio.run(main())
