"""Labels: what agents say of themselves, and the comparisons that tasks make with them (protocol, section 4)."""

from enum import StrEnum
from typing import Annotated, Final

from msgspec import Meta

from callboard.schemas.base import Message
from callboard.schemas.names import MAX_INTEGER, Name

LabelValue = str | bool | Annotated[int, Meta(ge=-MAX_INTEGER, le=MAX_INTEGER)] | float
Labels = Annotated[dict[Name, LabelValue], Meta(max_length=256)]


class LabelOp(StrEnum):
    """How a label is compared."""

    EQUALS = "="
    DIFFERS = "!="
    IN = "in"
    NOT_IN = "not_in"
    GREATER = ">"
    AT_LEAST = ">="
    LESS = "<"
    AT_MOST = "<="
    EXISTS = "exists"


ORDERING: Final = frozenset({LabelOp.GREATER, LabelOp.AT_LEAST, LabelOp.LESS, LabelOp.AT_MOST})
MEMBERSHIP: Final = frozenset({LabelOp.IN, LabelOp.NOT_IN})

Members = Annotated[list[LabelValue], Meta(min_length=1, max_length=64)]


class LabelMatch(Message, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A comparison: `in` and `not_in` take a list, `exists` nothing, the orderings a number, the others one value."""

    key: Name
    op: LabelOp
    value: LabelValue | Members | None = None

    def __post_init__(self) -> None:
        if self.op is LabelOp.EXISTS:
            if self.value is not None:
                raise ValueError("value: exists takes none")
        elif self.op in MEMBERSHIP:
            if not isinstance(self.value, list):
                raise ValueError(f"value: {self.op} takes a list")
        elif self.op in ORDERING:
            if isinstance(self.value, bool) or not isinstance(self.value, int | float):
                raise ValueError(f"value: {self.op} takes a number")
        elif self.value is None or isinstance(self.value, list):
            raise ValueError(f"value: {self.op} takes one value")


class Preference(LabelMatch, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A comparison that is scored and never excludes; what counts is its share of all weights of the task."""

    weight: Annotated[float, Meta(gt=0, le=1000)]
