"""The faults of one schedule, as its plan has them: what fails, when and for how long. In the end everything heals."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from tests.simulation.plan import Fault, Member

from callboard.agents.session import events as av
from callboard.orchestrator.core import events as ev
from callboard.schemas.agents import AgentChange

if TYPE_CHECKING:
    from tests.simulation.fleet import Process
    from tests.simulation.schedule import Schedule

LONGEST_MS: Final = 9_000
SPAWNED: Final = "spawned"
STOPS: Final = (60, 1_000, 2_000, 2_900, 3_500, 6_000, LONGEST_MS)
"""How long an owner is stopped: not noticed, as long as its trust, longer than its lease."""


class Weather:
    """Everything that goes wrong in a schedule."""

    def __init__(self, schedule: "Schedule") -> None:
        self._of, self._world = schedule, schedule.world
        self._drained: set[str] = set()
        self._fault = Fault(kind="", at_ms=0, length=0, pick=0)
        schedule.fleet.on_ended = self._process_ended

    def brew(self) -> None:
        """Let things go wrong as planned."""
        plan = self._of.plan
        self._of.database.lost_answers = plan.noise.lost_answers
        self._of.database.late_commits = plan.noise.late_commits
        for fault in plan.faults:
            self._world.after(fault.at_ms, partial(self._strike, fault))

    def _strike(self, fault: Fault) -> None:
        self._world.tally[f"fault {fault.kind}"] += 1
        self._fault = fault
        verb: Callable[[], None] = getattr(self, fault.kind)
        verb()

    def clear(self) -> None:
        """From now on nothing goes wrong."""
        self._world.note("WEATHER clears")
        self._of.network.heal()
        self._database_back()
        self._of.database.lost_answers = self._of.database.late_commits = 0.0
        for replica in self._of.replicas:
            replica.stop_at = None
            replica.wake()
        for process in self._of.fleet.processes.values():
            process.proceed()
        for agent_id in sorted(self._drained):
            self._resume(agent_id)

    def _lasts(self, low_ms: int, high_ms: int = LONGEST_MS) -> int:
        return low_ms + int(self._fault.length * (high_ms - low_ms))

    # Replicas.

    def hand_over(self) -> None:
        """The owner stops in an orderly way, and another one may take the pool."""
        owner = self._of.owning
        if owner is not None:
            owner.hand_over()

    def owner_dies(self) -> None:
        """kill -9, and a start some time later."""
        owner = self._of.owning
        if owner is not None:
            self._of.book.blame(None)
            self._of.kill(owner, self._lasts(50, 4_000))

    def owner_dies_committing(self) -> None:
        """kill -9 while its next commit is under way."""
        replica, again_ms = self._of.owning, self._lasts(50, 4_000)

        def die() -> None:
            if replica is not None and replica.is_alive:
                self._of.book.blame(None)
                self._of.kill(replica, again_ms)

        if replica is not None and replica.owner is not None:
            replica.owner.hand.last_words = die

    def owner_stopped(self) -> None:
        """SIGSTOP, and SIGCONT some time later."""
        owner = self._of.owning
        if owner is not None:
            self._of.book.blame(None, self._stop_ms())
            owner.stop(self._stop_ms())

    def owner_stopped_decided(self) -> None:
        """The same between its next decision and the commit."""
        self._stop_at("decided")

    def owner_stopped_committed(self) -> None:
        """The same between its next commit and the effects."""
        self._stop_at("committed")

    def owner_stopped_sending(self) -> None:
        """The same between its next look at its trust and what it sends then."""
        self._stop_at("sending")

    def _stop_at(self, point: str) -> None:
        owner = self._of.owning
        if owner is not None:
            self._of.book.blame(None, self._stop_ms())
            owner.stop_at = (point, self._stop_ms())

    def _stop_ms(self) -> int:
        return STOPS[int(self._fault.length * len(STOPS))]

    def owner_cut_off(self) -> None:
        """From the bus, both ways or one; not from the database."""
        owner = self._of.owning
        if owner is not None:
            self._cut_off(owner.name, None)

    # What everybody needs.

    def database_away(self) -> None:
        """For a moment or for longer than a lease."""
        lasts_ms = self._lasts(100, 6_000)
        self._world.note("WEATHER database away")
        self._of.book.blame(None, lasts_ms)
        self._of.database.is_down = True
        self._world.after(lasts_ms, self._database_back)

    def database_slow(self) -> None:
        """Every operation takes its time."""
        self._world.note("WEATHER database slow")
        self._of.database.slow_ms = self._lasts(50, 2_500)
        self._of.book.blame(None, self._lasts(500))
        self._world.after(self._lasts(500), self._database_back)

    def _database_back(self) -> None:
        self._world.note("WEATHER database back")
        self._of.database.is_down = False
        self._of.database.slow_ms = 0

    def bus_away(self) -> None:
        """Nobody hears anybody, and agents notice at once."""
        lasts_ms = self._lasts(500, 8_000)
        self._world.note("WEATHER bus away")
        self._of.book.blame(None, lasts_ms)
        self._of.network.cuts.is_down = True
        self._of.fleet.everyone(av.Disconnected())

        def back() -> None:
            self._world.note("WEATHER bus back")
            self._of.network.cuts.is_down = False
            self._of.fleet.everyone(av.Reconnected())

        self._world.after(lasts_ms, back)

    # Agents.

    def agent_cut_off(self) -> None:
        """Both ways or one."""
        agent_id = self._anybody().member.agent_id
        self._cut_off(agent_id, agent_id)

    def _cut_off(self, name: str, blamed: str | None) -> None:
        cuts, how, lasts_ms = self._of.network.cuts, self._world.between(1, 3), self._lasts(500)
        self._world.note("WEATHER cut off", name, ("", "deaf", "mute", "both")[how])
        self._of.book.blame(blamed, lasts_ms)
        if how & 1:
            cuts.deaf.add(name)
        if how & 2:
            cuts.mute.add(name)

        def back() -> None:
            cuts.deaf.discard(name)
            cuts.mute.discard(name)

        self._world.after(lasts_ms, back)

    def agent_dies(self) -> None:
        """kill -9; its supervisor starts it again."""
        self._of.fleet.kill(self._anybody())

    def agent_stopped(self) -> None:
        """SIGSTOP and SIGCONT."""
        process, lasts_ms = self._anybody(), self._lasts(200)
        self._world.note("WEATHER stopped", process.incarnation)
        self._of.book.blame(process.member.agent_id, lasts_ms)
        process.pause()
        self._world.after(lasts_ms, process.proceed)

    def agent_ends(self) -> None:
        """SIGTERM: it finishes, or stops what it runs; its supervisor starts it again."""
        process = self._anybody()
        self._of.book.blame(process.member.agent_id)
        if self._fault.length < 0.5:
            process.tell(av.DrainRequested())
        else:
            process.tell(av.StopRequested(self._lasts(0, 2_000)))

    def agent_drained(self) -> None:
        """By an operator, perhaps with a grace."""
        agent_id = self._anybody().member.agent_id
        self._drained.add(agent_id)
        self._of.book.blame(agent_id)
        grace_ms = None if self._fault.length < 0.5 else self._lasts(0, 3_000)
        self._ask(lambda ticket: ev.DrainRequested(ticket=ticket, agent_id=agent_id, grace_ms=grace_ms))
        self._world.after(self._lasts(500), lambda: self._resume(agent_id))

    def agent_shut_down(self) -> None:
        """By an operator; its supervisor starts it again."""
        agent_id, grace_ms = self._anybody().member.agent_id, self._lasts(0, 2_000)
        self._of.book.blame(agent_id)
        self._ask(lambda ticket: ev.ShutdownRequested(ticket=ticket, agent_id=agent_id, grace_ms=grace_ms))

    def agent_spawned(self) -> None:
        """By the owner; it may never come up, or die young."""
        agent_id = SPAWNED
        known = self._of.fleet.processes.get(agent_id)
        if known is not None and known.is_alive:
            self._of.fleet.kill(known)
        self._post(ev.AgentSpawned(agent_id=agent_id))
        if self._fault.length < 0.3:
            self._world.after(self._lasts(100, 2_000), lambda: self._post(ev.SpawnAbandoned(agent_id=agent_id)))
            return
        member = Member(agent_id=agent_id, slots=1)
        self._world.after(self._lasts(50, 500), lambda: self._of.fleet.join(member))
        if self._fault.length > 0.7:
            self._world.after(self._lasts(600, 3_000), lambda: self._of.fleet.kill(self._of.fleet.processes[agent_id]))

    def _process_ended(self, process: "Process") -> None:
        agent_id = process.member.agent_id
        if agent_id == SPAWNED:
            if self._world.chance(0.3):  # else the replica that started it is gone, too
                self._post(ev.SpawnAbandoned(agent_id=agent_id))
        else:
            self._of.fleet.start_again(process)

    def _post(self, event: ev.Event) -> None:
        """What the replica that owns the pool knows of its children."""
        replica = self._of.owning
        if replica is not None and replica.owner is not None and replica.owner.is_active:
            replica.owner.post(event)

    def _ask(self, event_of: Callable[[object], ev.Event], answered: Callable[[object], None] | None = None) -> None:
        self._of.serve(event_of, lambda message, _sender: None if answered is None else answered(message))

    def _resume(self, agent_id: str) -> None:
        answered: list[object] = []
        self._ask(lambda ticket: ev.ResumeRequested(ticket=ticket, agent_id=agent_id), answered.append)

        def look() -> None:
            if not any(isinstance(answer, AgentChange) for answer in answered):
                self._resume(agent_id)

        self._world.after(1_000, look)

    def _anybody(self) -> "Process":
        processes = self._of.fleet.processes
        return processes[sorted(processes)[int(self._fault.pick * len(processes))]]
