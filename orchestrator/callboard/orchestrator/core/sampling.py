"""A set that can be sampled evenly in O(sample): a list and the positions in it."""

from collections.abc import Iterator

from callboard.orchestrator.core.dice import Dice


class SampleSet:
    """Distinct strings with O(1) add, discard and even sampling."""

    __slots__ = ("_items", "_positions")

    def __init__(self) -> None:
        self._items: list[str] = []
        self._positions: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, item: str) -> bool:
        return item in self._positions

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def add(self, item: str) -> None:
        """Put `item` in; nothing happens when it is there."""
        if item not in self._positions:
            self._positions[item] = len(self._items)
            self._items.append(item)

    def discard(self, item: str) -> None:
        """Take `item` out; nothing happens when it is not there."""
        position = self._positions.pop(item, None)
        if position is None:
            return
        last = self._items.pop()
        if last != item:
            self._items[position] = last
            self._positions[last] = position

    def sample(self, most: int, dice: Dice) -> list[str]:
        """All items, or `most` of them drawn evenly, beginning at a random one: ties fall to the first."""
        count = len(self._items)
        if count == 0:
            return []
        start = dice.below(count)
        if count <= most:
            return self._items[start:] + self._items[:start]
        # Whole strides over the ring: every item is as likely as any other, and none is drawn twice.
        stride = count // most
        drawn = self._items[start::stride][:most]
        if len(drawn) < most:
            past_the_end = start + len(drawn) * stride - count
            drawn += self._items[past_the_end::stride][: most - len(drawn)]
        return drawn
