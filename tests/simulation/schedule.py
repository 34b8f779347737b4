"""One schedule: a fleet, its clients and an owner, some faults, and then calm weather in which everything must end.

At the end: every task that was accepted, or was committed though nobody was told, is in exactly one final state; no
slot is in use; no session holds anything. A schedule without faults is held to more: nothing ran but what had to.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace
from tests.simulation.book import Book
from tests.simulation.clients import Clients
from tests.simulation.database import Database
from tests.simulation.fleet import TYPES, Fleet, Member
from tests.simulation.network import Network
from tests.simulation.owner import Owner
from tests.simulation.weather import Weather
from tests.simulation.world import ScheduleError, World

from callboard.orchestrator.core import events as ev
from callboard.schemas.vocabulary import Outcome, TaskPriority

WINDOW_MS: Final = 15_000
DRAIN_MS: Final = 600_000
CLEAN_UP_MS: Final = 20_000
CALM_ONE_IN: Final = 8
FLOODS: Final = 0.4
PRIORITIES: Final = (TaskPriority.NORMAL, TaskPriority.HIGH)
CAPABILITIES: Final = ("x", "y", "z")


@dataclass(frozen=True, slots=True)
class Told:
    """What a schedule was like."""

    seed: int
    events: int
    tasks: int
    calm: bool
    lasted_ms: int


class Schedule:
    """Everything in it, and the owner of the moment."""

    def __init__(self, seed: int) -> None:
        self.world = World(seed)
        self.book = Book(self.world)
        self.network = Network(self.world)
        self.database = Database(self.world, self.book)
        self.fleet = Fleet(self.world, self.network, self.book, self.serve)
        self.clients = Clients(self.world, self.network, self.book, self.serve)
        self.weather = Weather(self)
        self.is_calm = seed % CALM_ONE_IN == 0
        self.owner = self._owner()

    def _owner(self) -> Owner:
        return Owner(self.world, self.database, self.fleet, self.book)

    def serve(self, event: ev.Event) -> None:
        """A request reaches whoever owns the pool now."""
        if self.owner.is_alive:
            self.owner.serve(event)

    def owner_dies(self) -> None:
        """kill -9 of the owner; another one takes over some time later."""
        if self.owner.is_alive:
            self.owner.kill()
            self.world.after(self.world.between(50, 4_000), self._take_over)

    def _take_over(self) -> None:
        if self.database.is_down:
            self.world.after(100, self._take_over)
        else:
            self.owner = self._owner()

    def run(self) -> Told:
        """Run it to its end.

        Raises:
            ScheduleError: a rule was broken.
        """
        world = self.world
        self._people()
        if not self.is_calm:
            self.weather.brew(WINDOW_MS)
        world.run_until(world.now_ms + WINDOW_MS)
        self.weather.clear()
        # What began in the window may last longer than it; the weather's own timers end it.
        world.run_until(world.now_ms + 9_000)
        self.network.heal()
        began_ms = world.now_ms
        if not world.run_until(began_ms + DRAIN_MS, done=self._is_done):
            unfinished = self.book.unfinished()
            world.fail(f"not drained: {unfinished}", about=min(unfinished, default=None))
        lasted_ms = world.now_ms - began_ms
        world.run_until(world.now_ms + CLEAN_UP_MS)
        self._check_end()
        return Told(world.seed, world.events, len(self.book.lines), self.is_calm, lasted_ms)

    def _people(self) -> None:
        world = self.world
        self.fleet.join(Member(agent_id="agent-0", slots=world.between(1, 3), capabilities=CAPABILITIES))
        for number in range(1, world.between(1, 4)):
            has = tuple(c for c in CAPABILITIES if world.chance(0.5))
            types = frozenset(TYPES) - {"flaky"} if world.chance(0.3) and not self.is_calm else None
            slots = world.between(1, 3)
            self.fleet.join(Member(agent_id=f"agent-{number}", slots=slots, capabilities=has, types=types))
        for number in range(world.between(3, 14)):
            world.after(world.between(0, WINDOW_MS), self._story_of_a_task(number))
        if world.chance(FLOODS):
            began_ms = world.between(0, WINDOW_MS)
            for number in range(100, 100 + world.between(10, 60)):
                world.after(began_ms + world.between(0, 300), self._story_of_a_task(number, flood=True))

    def _story_of_a_task(self, number: int, *, flood: bool = False) -> Callable[[], None]:
        world, clients = self.world, self.clients
        spec = clients.spec(number, CAPABILITIES, calm=self.is_calm)
        if flood:
            # All in a few lanes, so that a window is too small for them.
            kind = world.rng.choice(TYPES[:1])
            spec = replace(spec, type=kind, requires=None, priority=world.rng.choice(PRIORITIES))

        def accepted(task_id: str) -> None:
            if self.is_calm:
                return
            if world.chance(0.15):
                world.after(world.between(0, 5_000), lambda: clients.cancel(task_id))
            if world.chance(0.1):
                world.after(world.between(0, 5_000), lambda: clients.finish(task_id))

        def begin() -> None:
            clients.submit(spec, accepted)
            if spec.key is not None and world.chance(0.3):
                world.after(world.between(0, 5_000), lambda: clients.submit(spec))
                world.after(world.between(0, 5_000), lambda: clients.conflict(spec))

        return begin

    def _is_done(self) -> bool:
        return self.book.is_drained and self.owner.is_alive

    def _check_end(self) -> None:
        world, book, pool = self.world, self.book, self.owner.machine.pool
        if not book.accepted <= book.lines.keys():
            world.fail(f"lost: {sorted(book.accepted - book.lines.keys())}")
        if not book.is_drained:
            world.fail(f"not final any more: {book.unfinished()}")
        if pool.tasks:
            world.fail(f"still in memory: {sorted(pool.tasks)}", about=min(pool.tasks))
        for agent in pool.agents.values():
            if agent.holds:
                world.fail(f"{agent.agent_id} still holds {agent.holds}", about=agent.agent_id)
        for process in self.fleet.processes.values():
            if process.is_alive and process.session.running:
                world.fail(f"{process.incarnation} still lists {process.session.running}", about=process.incarnation)
        if self.is_calm:
            self._check_calm()

    def _check_calm(self) -> None:
        book, fail = self.book, self.world.fail
        for task_id, line in book.lines.items():
            outcomes = {end.outcome for end in line.ends}
            if not outcomes <= {Outcome.SUCCEEDED, Outcome.FAILED}:
                fail(f"{task_id} ended {sorted(outcomes)} in calm weather", about=task_id)
            runs = [book.started[task_id, attempt] for attempt in range(1, line.attempt + 1)]
            if runs != [1] * line.attempt:
                fail(f"{task_id} ran {runs} times in calm weather", about=task_id)
            if len([end for end in line.ends if end.outcome is Outcome.FAILED]) != book.failures[task_id]:
                fail(f"{task_id} failed {book.failures[task_id]} times, recorded {line.ends}", about=task_id)


def run(seed: int) -> Told:
    """Run the schedule of a seed.

    Raises:
        ScheduleError: a rule was broken; the message has the story.
    """
    schedule = Schedule(seed)
    try:
        return schedule.run()
    except ScheduleError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever breaks, the seed is needed to see it again
        schedule.world.fail(f"{type(error).__name__}: {error}")
