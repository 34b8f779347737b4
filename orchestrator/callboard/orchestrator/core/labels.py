"""Comparing labels: pure tests, equal when they were written the same.

A missing label matches nothing but `!=` and `not_in`. Values of different kinds are different and have no order:
`true` is not 1, "8" is not 8; 8 and 8.0 are the same number.
"""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from callboard.schemas.labels import MEMBERSHIP, ORDERING, LabelMatch, LabelOp, LabelValue

_ORDERINGS: Final[dict[LabelOp, Callable[[float, float], bool]]] = {
    LabelOp.GREATER: operator.gt,
    LabelOp.AT_LEAST: operator.ge,
    LabelOp.LESS: operator.lt,
    LabelOp.AT_MOST: operator.le,
}


@dataclass(frozen=True, slots=True)
class LabelTest:
    """One comparison. `text` is its JSON, and its identity: in Python `True == 1`, on the wire it is not."""

    text: str
    key: str = field(compare=False)
    op: LabelOp = field(compare=False)
    values: tuple[LabelValue, ...] = field(compare=False)

    def holds(self, labels: Mapping[str, LabelValue]) -> bool:
        """Whether an agent with `labels` passes."""
        found = labels.get(self.key)
        if self.op is LabelOp.EXISTS:
            return found is not None
        if found is None:
            return self.op in {LabelOp.DIFFERS, LabelOp.NOT_IN}
        if self.op in ORDERING:
            (limit,) = self.values
            return _is_number(found) and _ORDERINGS[self.op](float(found), float(limit))
        is_one = any(_is_same(found, value) for value in self.values)
        return is_one if self.op in {LabelOp.EQUALS, LabelOp.IN} else not is_one


def label_test(match: LabelMatch) -> LabelTest:
    """The test that the wire's comparison asks for."""
    values: tuple[LabelValue, ...] = ()
    if match.op in MEMBERSHIP and isinstance(match.value, list):
        values = tuple(match.value)
    elif match.value is not None and not isinstance(match.value, list):
        values = (match.value,)
    text = msgspec.json.encode((match.key, match.op, match.value)).decode()
    return LabelTest(text, match.key, match.op, values)


def _is_number(value: LabelValue) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_same(one: LabelValue, other: LabelValue) -> bool:
    if _is_number(one) and _is_number(other):
        return one == other
    return type(one) is type(other) and one == other
