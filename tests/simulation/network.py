"""The network of one schedule: messages are lost, delayed, doubled, overtaken, or cut off one way or both.

An orchestrator's and its agents' messages go over it, and so do the clients'. A request is a message there, one back,
and a limit to the patience of whoever asked; nobody learns which of them was lost.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from tests.simulation.world import World


@dataclass(slots=True)
class Faults:
    """What goes wrong, as shares of messages; `slow_ms` is the most that an unlucky one is delayed."""

    loss: float = 0.0
    doubled: float = 0.0
    slow: float = 0.0
    slow_ms: int = 0
    deaf: set[str] = field(default_factory=set[str])
    """Names that hear nothing."""
    mute: set[str] = field(default_factory=set[str])
    """Names that nobody hears."""
    is_down: bool = False


class Network:
    """All links are alike; a name is an agent's id, or a client's."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.faults = Faults()

    def heal(self) -> None:
        """From now on nothing goes wrong."""
        self.faults = Faults()

    def to(self, name: str, deliver: Callable[[], None]) -> None:
        """Send towards `name`."""
        if name not in self.faults.deaf:
            self._send(deliver)

    def from_(self, name: str, deliver: Callable[[], None]) -> None:
        """Send from `name`."""
        if name not in self.faults.mute:
            self._send(deliver)

    def ask(
        self,
        name: str,
        serve: Callable[[Callable[[object], None]], None],
        on_answer: Callable[[object | None], None],
        *,
        patience_ms: int,
    ) -> None:
        """Ask from `name`: `serve` gets the way to answer; `on_answer` the first answer, or `None` in the end."""
        is_open = [True]

        def end(answer: object | None) -> None:
            if is_open[0]:
                is_open[0] = False
                on_answer(answer)

        def answer(message: object) -> None:
            self.to(name, lambda: end(message))

        self.from_(name, lambda: serve(answer))
        self.world.after(patience_ms, lambda: end(None))

    def _send(self, deliver: Callable[[], None]) -> None:
        world, faults = self.world, self.faults
        if faults.is_down or world.chance(faults.loss):
            return
        world.after(self._delay_ms(), deliver)
        if world.chance(faults.doubled):
            world.after(self._delay_ms(), deliver)

    def _delay_ms(self) -> int:
        faults = self.faults
        if self.world.chance(faults.slow):
            return self.world.between(1, faults.slow_ms)
        return self.world.between(0, 2)
