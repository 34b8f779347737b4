"""The checker: a history in, violations out. Pure, and linear in the history but for sorting and heaps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from tests.chaos.facts import Facts, gather
from tests.chaos.history import AnyEvent
from tests.chaos.rules_of_pools import POOL_RULES
from tests.chaos.rules_of_tasks import TASK_RULES
from tests.chaos.rules_of_wishes import WISH_RULES

RULES: Final = (*TASK_RULES, *POOL_RULES, *WISH_RULES)


class Violation(NamedTuple):
    """A rule that was broken, by its name, and how."""

    rule: str
    story: str


def check(history: Iterable[AnyEvent]) -> list[Violation]:
    """Every violation in a history that is in order (see `history.in_order`)."""
    return check_facts(gather(history))


def check_facts(facts: Facts) -> list[Violation]:
    """The same, of facts gathered already."""
    return [Violation(rule.__name__, story) for rule in RULES for story in rule(facts)]
