"""The network of one schedule: messages are lost, delayed, doubled, overtaken, or cut off one way or both.

An orchestrator's and its agents' messages go over it, and so do the clients'. A request is a message there, one back,
and a limit to the patience of whoever asked; nobody learns which of them was lost.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from tests.simulation.plan import Noise
from tests.simulation.world import World

LATE_MS: Final = 400
"""A message that takes so long may have been repeated, or its sender given up."""


@dataclass(slots=True)
class Cuts:
    """Who is cut off."""

    deaf: set[str] = field(default_factory=set[str])
    """Names that hear nothing."""
    mute: set[str] = field(default_factory=set[str])
    """Names that nobody hears."""
    is_down: bool = False


class Network:
    """All links are alike; a name is an agent's id, a replica's, or a client's.

    Args:
        blame: told of each message of `name` that was lost or late by the noise.
    """

    def __init__(self, world: World, noise: Noise, blame: Callable[[str], None]) -> None:
        self.world = world
        self.noise = noise
        self.cuts = Cuts()
        self._blame = blame

    def heal(self) -> None:
        """From now on nothing goes wrong."""
        self.noise, self.cuts = Noise(), Cuts()

    def carries(self, name: str) -> bool:
        """Whether what `name` says to itself comes back."""
        cuts = self.cuts
        return not (cuts.is_down or name in cuts.deaf or name in cuts.mute)

    def hears(self, name: str) -> bool:
        """Whether what is published reaches `name`."""
        return not (self.cuts.is_down or name in self.cuts.deaf)

    def to(self, name: str, deliver: Callable[[], None], *, sender: str) -> None:
        """Send towards `name`."""
        if name not in self.cuts.deaf and sender not in self.cuts.mute:
            self._send(name, deliver)

    def from_(self, name: str, deliver: Callable[[], None]) -> None:
        """Send from `name`."""
        if name not in self.cuts.mute:
            self._send(name, deliver)

    def ask(
        self,
        name: str,
        serve: Callable[[Callable[[object, str], None]], None],
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

        def answer(message: object, sender: str) -> None:
            self.to(name, lambda: end(message), sender=sender)

        self.from_(name, lambda: serve(answer))
        self.world.after(patience_ms, lambda: end(None))

    def _send(self, name: str, deliver: Callable[[], None]) -> None:
        world, noise = self.world, self.noise
        if self.cuts.is_down:
            return
        if world.chance(noise.loss):
            world.tally["noise lost"] += 1
            self._blame(name)
            return
        world.after(self._delay_ms(name), deliver)
        if world.chance(noise.doubled):
            world.tally["noise doubled"] += 1
            world.after(self._delay_ms(name), deliver)

    def _delay_ms(self, name: str) -> int:
        if self.world.chance(self.noise.slow):
            delay_ms = self.world.between(1, self.noise.slow_ms)
            if delay_ms >= LATE_MS:
                self.world.tally["noise late"] += 1
                self._blame(name)
            return delay_ms
        return self.world.between(0, 2)
