"""The faults of one schedule, drawn from its seed: what fails, when and for how long. In the end everything heals."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from callboard.agents.session import events as av
from callboard.orchestrator.core import events as ev
from callboard.schemas.agents import AgentChange

if TYPE_CHECKING:
    from tests.simulation.schedule import Schedule

MOST_FAULTS: Final = 14


class Weather:
    """Everything that goes wrong in a schedule."""

    def __init__(self, schedule: "Schedule") -> None:
        self._of, self._world = schedule, schedule.world
        self._drained: set[str] = set()

    def brew(self, window_ms: int) -> None:
        """Let things go wrong within the window."""
        world, faults = self._world, self._of.network.faults
        faults.loss = world.rng.choice([0.0, 0.0, 0.02, 0.1])
        faults.doubled = world.rng.choice([0.0, 0.05, 0.2])
        faults.slow = world.rng.choice([0.0, 0.05, 0.2])
        faults.slow_ms = world.rng.choice([50, 1_000, 5_000])
        self._of.database.lost_answers = world.rng.choice([0.0, 0.0, 0.05, 0.2])
        kinds: list[Callable[[], None]] = [
            self.owner_dies,
            self.owner_dies_committing,
            self.database_away,
            self.bus_away,
            self.agent_cut_off,
            self.agent_dies,
            self.agent_paused,
            self.agent_drained,
            self.agent_shut_down,
        ]
        for _ in range(world.between(0, MOST_FAULTS)):
            world.after(world.between(0, window_ms), world.rng.choice(kinds))

    def clear(self) -> None:
        """From now on nothing goes wrong."""
        self._world.note("WEATHER clears")
        self._of.network.heal()
        self._of.database.is_down = False
        self._of.database.lost_answers = 0.0
        for process in self._of.fleet.processes.values():
            process.proceed()
        for agent_id in sorted(self._drained):
            self._resume(agent_id)

    def owner_dies(self) -> None:
        """kill -9, and a start some time later."""
        self._of.owner_dies()

    def owner_dies_committing(self) -> None:
        """kill -9 while its next commit is under way."""
        self._of.owner.last_words = self._of.owner_dies

    def database_away(self) -> None:
        """For a moment or for longer than a lease."""
        self._world.note("WEATHER database away")
        self._of.database.is_down = True
        self._world.after(self._world.between(100, 6_000), self._database_back)

    def _database_back(self) -> None:
        self._of.database.is_down = False

    def bus_away(self) -> None:
        """Nobody hears anybody, and everybody notices sooner or later."""
        world = self._world
        world.note("WEATHER bus away")
        self._of.network.faults.is_down = True
        self._of.fleet.everyone(av.Disconnected())
        world.after(world.between(0, 2_000), self._notice_bus)
        world.after(world.between(2_000, 8_000), self._bus_back)

    def _notice_bus(self) -> None:
        if self._of.network.faults.is_down:
            self._of.owner.pause("bus")

    def _bus_back(self) -> None:
        self._world.note("WEATHER bus back")
        self._of.network.faults.is_down = False
        self._of.owner.resume("bus")
        self._of.fleet.everyone(av.Reconnected())

    def agent_cut_off(self) -> None:
        """Both ways or one."""
        world, faults = self._world, self._of.network.faults
        agent_id, how = self._anybody(), world.between(1, 3)
        world.note("WEATHER cut off", agent_id, ("", "deaf", "mute", "both")[how])
        if how & 1:
            faults.deaf.add(agent_id)
        if how & 2:
            faults.mute.add(agent_id)

        def back() -> None:
            faults.deaf.discard(agent_id)
            faults.mute.discard(agent_id)

        world.after(world.between(500, 9_000), back)

    def agent_dies(self) -> None:
        """kill -9; its supervisor starts it again."""
        self._of.fleet.kill(self._of.fleet.processes[self._anybody()])

    def agent_paused(self) -> None:
        """SIGSTOP and SIGCONT."""
        process = self._of.fleet.processes[self._anybody()]
        self._world.note("WEATHER paused", process.incarnation)
        process.pause()
        self._world.after(self._world.between(200, 9_000), process.proceed)

    def agent_drained(self) -> None:
        """By an operator, perhaps with a grace."""
        agent_id, world = self._anybody(), self._world
        self._drained.add(agent_id)
        grace_ms = world.rng.choice([None, world.between(0, 3_000)])
        self._of.serve(ev.DrainRequested(ticket=_ignore, agent_id=agent_id, grace_ms=grace_ms))
        world.after(world.between(500, 9_000), lambda: self._resume(agent_id))

    def agent_shut_down(self) -> None:
        """By an operator; its supervisor starts it again."""
        grace_ms = self._world.between(0, 2_000)
        self._of.serve(ev.ShutdownRequested(ticket=_ignore, agent_id=self._anybody(), grace_ms=grace_ms))

    def _resume(self, agent_id: str) -> None:
        answered: list[object] = []
        self._of.serve(ev.ResumeRequested(ticket=answered.append, agent_id=agent_id))

        def look() -> None:
            if not any(isinstance(answer, AgentChange) for answer in answered):
                self._resume(agent_id)

        self._world.after(1_000, look)

    def _anybody(self) -> str:
        return self._world.rng.choice(sorted(self._of.fleet.processes))


def _ignore(_answer: object) -> None:
    pass
