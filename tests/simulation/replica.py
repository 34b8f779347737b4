"""A process that stands for the pool: it takes the lease whenever that is free, owns the pool, loses it, tries again.

It can be killed, cut off, and stopped (SIGSTOP) at any moment, the worst ones included: between a decision and its
commit, between a commit and its effects, between the look at its trust and the sending. Whatever reaches a stopped
process waits for it, its clock runs on, and when it wakes it goes on where it was. Whoever is killed is started again.
"""

from collections.abc import Callable
from typing import Final

from tests.simulation.bus import Message, Serves
from tests.simulation.database import AwayError
from tests.simulation.owner import Owner
from tests.simulation.world import LocalClock

from callboard.orchestrator.core.changes import Snapshot
from callboard.orchestrator.store.port import Lease

ACQUIRE_EVERY_MS: Final = 300
STEP_BACK_MS: Final = 1_200
"""How often it tries after it handed over."""


class Replica:
    """One process.

    Args:
        name: of the replica; each life has a number of its own.
        rate: of its clock.
    """

    def __init__(self, around: Serves, name: str, life: int, rate: float) -> None:
        self.name = name
        self.holder = f"{name}.{life}"
        self.is_alive = True
        self.owner: Owner | None = None
        self.stop_at: tuple[str, int] | None = None
        """Where it is to be stopped next, and for how long."""
        self.around = around
        self.clock = LocalClock(around.world, rate)
        self._held: list[Callable[[], None]] | None = None
        self._heard_s = self.clock.s()
        self.run(self._try)

    # Processes run, are stopped, and go on.

    def run(self, what: Callable[[], None]) -> None:
        """Something happens in this process: now, when it wakes, or never."""
        if not self.is_alive:
            return
        if self._held is None:
            what()
        else:
            self._held.append(what)

    def after(self, local_ms: float, what: Callable[[], None]) -> None:
        """Have something happen in this process after so many ms of its own clock."""
        self.around.world.after(self.clock.delay_ms(local_ms), lambda: self.run(what))

    @property
    def is_stopped(self) -> bool:
        """Whether it was stopped, and has not woken yet."""
        return self._held is not None

    def stop(self, lasts_ms: int, then: Callable[[], None] | None = None) -> None:
        """SIGSTOP; SIGCONT so long after. `then` is what it was about to do."""
        if self.is_alive and self._held is None:
            self.around.world.note("WEATHER", self.holder, "is stopped")
            self._held = [] if then is None else [then]
            self.around.world.after(lasts_ms, self.wake)

    def wake(self) -> None:
        """SIGCONT."""
        held, self._held = self._held or [], None
        if held and self.is_alive:
            self.around.world.note("WEATHER", self.holder, "goes on")
        for what in held:
            self.run(what)

    def passes(self, point: str, then: Callable[[], None]) -> bool:
        """Do `then`; later, if it is to be stopped at this point. Whether it was done."""
        if self.stop_at is not None and self.stop_at[0] == point:
            lasts_ms, self.stop_at = self.stop_at[1], None
            self.around.world.tally[f"stopped {point}"] += 1
            self.stop(lasts_ms, then)
            return False
        then()
        return True

    def kill(self) -> None:
        """SIGKILL: a commit on its way may or may not arrive."""
        self.around.world.note("WEATHER", self.holder, "is killed")
        self.is_alive = False
        self._held = None

    # Taking the pool.

    @property
    def is_active(self) -> bool:
        """Whether it owns the pool and decides."""
        return self.is_alive and self._held is None and self.owner is not None and self.owner.is_active

    def _try(self) -> None:
        """Take the lease, unless nobody hears us."""
        if self.owner is not None:
            return
        if not self.around.network.carries(self.name):
            self.after(ACQUIRE_EVERY_MS, self._try)
            return
        began_s = self.clock.s()

        def acquire() -> None:
            try:
                lease = self.around.database.acquire(self.holder)
            except AwayError:
                lease = None
            self.around.world.after(1, lambda: self.run(lambda: self._took(lease, began_s)))

        self.around.database.ask(acquire)

    def _took(self, lease: Lease | None, began_s: float) -> None:
        if lease is None:
            self.after(self.around.world.between(ACQUIRE_EVERY_MS, STEP_BACK_MS), self._try)
            return

        def load() -> None:
            try:
                snapshot = self.around.database.load(lease)
            except AwayError:
                self.around.world.after(ACQUIRE_EVERY_MS, lambda: self.run(self._try))
            else:
                self.around.world.after(1, lambda: self.run(lambda: self._own(lease, began_s, snapshot)))

        self.around.database.ask(load)

    def _own(self, lease: Lease, began_s: float, snapshot: Snapshot) -> None:
        self.around.world.note("WEATHER", self.holder, "owns the pool in epoch", lease.epoch)
        self.around.world.tally["take-over"] += 1
        self.owner = Owner(self, lease, began_s, snapshot)
        self.around.announce(self, lease.epoch)
        self.owner.begin()

    def hear_owner(self, epoch: int) -> None:
        """Another replica says that it owns the pool. While we trust our lease that cannot be."""
        owner = self.owner
        if owner is not None and epoch > owner.lease.epoch and not owner.is_active:
            owner.lose("another owner")

    def lost(self, *, handed_over: bool) -> None:
        """The pool is not ours any more."""
        self.owner = None
        self.after(STEP_BACK_MS if handed_over else ACQUIRE_EVERY_MS, self._try)

    def hand_over(self) -> None:
        """Serve no more, finish what is decided, release the lease."""
        if self.owner is not None:
            self.around.world.note("WEATHER", self.holder, "hands over")
            self.owner.hand_over()

    def receive(self, message: Message) -> None:
        """A request of an agent or a client."""
        if self.owner is not None:
            self.owner.receive(message)
