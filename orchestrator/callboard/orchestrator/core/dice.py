"""Deterministic randomness: SplitMix64, so that a seed replays every tie-break and every back-off.

Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014.
"""

_MASK = (1 << 64) - 1


class Dice:
    """A stream of pseudo-random integers from a seed."""

    __slots__ = ("_state",)

    def __init__(self, seed: int) -> None:
        self._state = seed & _MASK

    def below(self, bound: int) -> int:
        """An integer in `[0, bound)`; `bound` is at least 1. The bias is under `bound / 2**64`."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        mixed = self._state
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
        return (mixed ^ (mixed >> 31)) % bound
