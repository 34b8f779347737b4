"""One schedule: a fleet, its clients and the replicas, some faults, and then calm weather in which everything must end.

At the end: every task that was accepted, or was committed though nobody was told, is in exactly one final state; no
slot is in use; no session holds anything; nothing ran but what had to, and what faults can have caused. A schedule
without faults is held to more: nothing ran twice, though the pool may have been handed over.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from tests.simulation.book import Book
from tests.simulation.bus import Announces, Message
from tests.simulation.clients import Clients
from tests.simulation.coverage import counting_transitions
from tests.simulation.database import LEASE_MS, Database
from tests.simulation.fleet import Fleet
from tests.simulation.network import Network
from tests.simulation.owner import Owner
from tests.simulation.plan import WINDOW_MS, Draw, Plan
from tests.simulation.replica import Replica
from tests.simulation.weather import LONGEST_MS, Weather
from tests.simulation.world import ScheduleError, World

from callboard.orchestrator.core import events as ev
from callboard.orchestrator.core.model import Agent
from callboard.orchestrator.store.port import Lease
from callboard.schemas.vocabulary import AgentState, Outcome

DRAIN_MS: Final = 600_000
CLEAN_UP_MS: Final = 60_000


@dataclass(frozen=True, slots=True)
class Told:
    """What a schedule was like."""

    seed: int
    events: int
    tasks: int
    calm: bool
    lasted_ms: int
    tally: Counter[str]


class Schedule:
    """Everything in it."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.world = World(plan.seed, plan.salt)
        self.book = Book(self.world, adopts_late=plan.adopts_late)
        self.network = Network(self.world, plan.noise, self.book.blame)
        self.database = Database(self.world, self.book)
        self.fleet = Fleet(self.world, self.network, self.book, self.serve, self._rate)
        self.clients = Clients(self.world, self.network, self.book, self.serve)
        self.weather = Weather(self)
        self.database.on_acquired = self._acquired
        self._lives = 0
        self.replicas = [self._replica(f"replica-{number}") for number in range(plan.replicas)]

    def _rate(self) -> float:
        return 1 + self.plan.drift * (2 * self.world.rng.random() - 1)

    def _replica(self, name: str) -> Replica:
        self._lives += 1
        return Replica(self, name, self._lives, self._rate())

    @property
    def owning(self) -> Replica | None:
        """The replica with the pool's last epoch, if it is alive and knows."""
        found = [r for r in self.replicas if r.is_alive and r.owner is not None]
        return next((r for r in found if r.owner is not None and r.owner.lease.epoch == self.database.epoch), None)

    def serve(self, event_of: Callable[[object], ev.Event], answer: Callable[[object, str], None] | None) -> None:
        """A request reaches whoever has subscribed."""
        for replica in self.replicas:
            if self.network.hears(replica.name):
                replica.run(partial(replica.receive, Message(event_of, answer)))

    def announce(self, replica: Announces, epoch: int) -> None:
        """Publish `event.owner`."""
        for other in self.replicas:
            if other is not replica:
                hear = partial(other.run, partial(other.hear_owner, epoch))
                self.network.to(other.name, hear, sender=replica.name)

    def kill(self, replica: Replica, again_ms: int) -> None:
        """kill -9; it is started again some time later."""
        replica.kill()

        def start() -> None:
            self.replicas[self.replicas.index(replica)] = self._replica(replica.name)

        self.world.after(again_ms, start)

    def _acquired(self, lease: Lease) -> None:
        """Nobody else believes that the pool is theirs; as long as clocks are right."""
        slack_ms = int(LEASE_MS * self.plan.drift * 2.1) + 1 if self.plan.drift else 0
        for replica in self.replicas:
            owner = replica.owner
            if replica.is_alive and owner is not None and not owner.is_over and owner.lease.holder != lease.holder:
                self.world.after(slack_ms, partial(self._check_doubt, owner))

    def _check_doubt(self, former: Owner) -> None:
        lease = former.lease
        if former.trust.holds and not former.is_over:
            self.world.fail(f"{lease.holder} of epoch {lease.epoch} trusts its lease in epoch {self.database.epoch}")

    def run(self) -> Told:
        """Run it to its end.

        Raises:
            ScheduleError: a rule was broken.
        """
        world = self.world
        for member in self.plan.members:
            self.fleet.join(member)
        for wish in self.plan.wishes:
            self.clients.want(wish)
        self.weather.brew()
        world.run_until(world.now_ms + WINDOW_MS)
        self.weather.clear()
        if not self.plan.is_calm:
            # What began in the window may last longer than it; the weather's own timers end it.
            world.run_until(world.now_ms + LONGEST_MS)
            self.weather.clear()
        began_ms = world.now_ms
        if not world.run_until(began_ms + DRAIN_MS, done=self._is_done):
            unfinished = self.book.unfinished()
            world.fail(f"not drained: {unfinished}", about=min(unfinished, default=None))
        lasted_ms = world.now_ms - began_ms
        world.run_until(world.now_ms + CLEAN_UP_MS, done=self._is_clean)
        self._check_end()
        return Told(world.seed, world.events, len(self.book.lines), self.plan.is_calm, lasted_ms, world.tally)

    def _is_done(self) -> bool:
        return self.book.is_drained and self.owning is not None and self.owning.is_active

    def _is_clean(self) -> bool:
        owner = None if self.owning is None else self.owning.owner
        if owner is None or owner.machine.pool.tasks or not self.book.is_drained:
            return False
        if not self.book.is_told or self.database.keeps_events:
            return False
        holds = any(agent.holds for agent in _present(owner))
        return not holds and not any(p.is_alive and p.session.running for p in self.fleet.processes.values())

    def _check_end(self) -> None:
        world, book = self.world, self.book
        active = [replica.holder for replica in self.replicas if replica.is_active]
        if len(active) != 1 or self.owning is None or self.owning.owner is None:
            world.fail(f"the pool is owned by {active}")
        pool = self.owning.owner.machine.pool
        if not book.accepted <= book.lines.keys():
            world.fail(f"lost: {sorted(book.accepted - book.lines.keys())}")
        if not book.is_drained:
            world.fail(f"not final any more: {book.unfinished()}")
        if pool.tasks:
            world.fail(f"still in memory: {sorted(pool.tasks)}", about=min(pool.tasks))
        for agent in _present(self.owning.owner):
            if agent.holds:
                world.fail(f"{agent.agent_id} still holds {agent.holds}", about=agent.agent_id)
        for process in self.fleet.processes.values():
            if process.is_alive and process.session.running:
                world.fail(f"{process.incarnation} still lists {process.session.running}", about=process.incarnation)
        book.check_runs()
        book.check_told()
        if self.database.keeps_events:
            world.fail("what is told is kept for ever")
        if self.plan.is_calm:
            self._check_calm()

    def _check_calm(self) -> None:
        book, fail = self.book, self.world.fail
        calm = {Outcome.SUCCEEDED, Outcome.FAILED}
        if self.plan.faults:
            # While nobody had the pool an agent may have lost its lease; then it takes nothing before it registers.
            calm.add(Outcome.DECLINED)
        for task_id, line in book.lines.items():
            outcomes = {end.outcome for end in line.ends}
            if not outcomes <= calm:
                fail(f"{task_id} ended {sorted(outcomes)} in calm weather", about=task_id)
            runs = [run.attempt for run in book.runs.get(task_id, [])]
            if runs != [end.attempt for end in line.ends if end.outcome is not Outcome.DECLINED]:
                fail(f"{task_id} ran attempts {runs} in calm weather", about=task_id)
            if len([end for end in line.ends if end.outcome is Outcome.FAILED]) != book.failures[task_id]:
                fail(f"{task_id} failed {book.failures[task_id]} times, recorded {line.ends}", about=task_id)


def _present(owner: Owner) -> list[Agent]:
    """The agents that are there. One that died for good keeps what it held, spawned again or not: nobody lists it."""
    gone = {AgentState.OFFLINE, AgentState.STOPPED, AgentState.STARTING}
    return [agent for agent in owner.machine.pool.agents.values() if agent.liveness not in gone]


def run_plan(plan: Plan) -> Told:
    """Run a plan.

    Raises:
        ScheduleError: a rule was broken; the message has the story.
    """
    schedule: Schedule | None = None
    world = World(plan.seed)
    try:
        schedule = Schedule(plan)
        world = schedule.world
        with counting_transitions(world.tally):
            return schedule.run()
    except ScheduleError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever breaks, the seed is needed to see it again
        world.fail(f"{type(error).__name__}: {error}")


def run(seed: int) -> Told:
    """Run the schedule of a seed.

    Raises:
        ScheduleError: a rule was broken; the message has the story.
    """
    return run_plan(Draw(seed).plan())
