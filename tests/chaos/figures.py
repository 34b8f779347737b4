"""What a history says about how long things took."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from tests.chaos.facts import HELD, gather
from tests.chaos.history import AnyEvent, LeaseRow, Row
from tests.chaos.rules_of_pools import extra_executions

if TYPE_CHECKING:
    from tests.chaos.facts import Facts, Fault

DEADLY: Final = frozenset({"replica killed", "replica stopped"})
SERVERS: Final = ("Postgres", "database", "disk", "NATS", "bus")
"""How the kinds of faults begin that a new owner meets, too."""
SECOND_NS: Final = 1_000_000_000


def failovers(history: Iterable[AnyEvent]) -> list[float]:
    """For each owner that was killed or stopped: seconds until another one's assignment was committed.

    An owner that is back before its lease is over needs nobody else, and is left out.
    """
    return failovers_of(gather(history))


def failovers_of(facts: Facts) -> list[float]:
    leases = [event for event in facts.log if isinstance(event, LeaseRow)]
    times = [lease.at_ns for lease in leases]
    given = _assignments(facts)
    took: list[float] = []
    for fault in facts.faults.values():
        place = bisect_right(times, fault.began.at_ns) - 1
        if fault.began.kind not in DEADLY or place < 0:
            continue
        owner = leases[place]
        if not owner.held or owner.replica != fault.began.target:
            continue
        after = next((row for row in given if row.at_ns > fault.began.at_ns and row.epoch > owner.epoch), None)
        same = next((row for row in given if row.at_ns > fault.began.at_ns and row.epoch == owner.epoch), None)
        # What the dying one had sent still counts as its own.
        is_kept = same is not None and fault.ended_ns is not None and same.at_ns > fault.ended_ns
        if after is not None and not is_kept and not _is_held_up(facts, fault.began.at_ns, after.at_ns, fault):
            took.append((after.at_ns - fault.began.at_ns) / SECOND_NS)
    return took


def _is_held_up(facts: Facts, from_ns: int, until_ns: int, by_other_than: Fault) -> bool:
    """Whether something else held up what came then: without servers, or in a pause, nobody gives anything out."""
    others = [fault for fault in facts.faults.values() if fault.began.kind.startswith(SERVERS)]
    spans = [(other.began.at_ns, other.ended_ns) for other in others if other is not by_other_than]
    spans += [(pause.pausing_ns, pause.unpaused_ns) for pause in facts.pauses]
    return any(began < until_ns and (ended is None or ended > from_ns) for began, ended in spans)


def _assignments(facts: Facts) -> list[Row]:
    attempts: Counter[str] = Counter()
    given: list[Row] = []
    for row in facts.log:
        if isinstance(row, Row) and row.op != "delete":
            if row.state in HELD and row.attempt > attempts[row.task_id]:
                given.append(row)
            attempts[row.task_id] = row.attempt
    return given


def recoveries(facts: Facts, of: str) -> list[float]:
    """For each fault whose kind begins with `of`: seconds from its end to the next commit of a task.

    Where another fault of a server came in between, it is left out.
    """
    times = [row.at_ns for row in facts.log if isinstance(row, Row)]
    took: list[float] = []
    for fault in _faults(facts, of):
        if fault.ended_ns is not None:
            place = bisect_right(times, fault.ended_ns)
            if place < len(times) and not _is_held_up(facts, fault.ended_ns, times[place], fault):
                took.append((times[place] - fault.ended_ns) / SECOND_NS)
    return took


def _faults(facts: Facts, of: str) -> list[Fault]:
    return [fault for fault in facts.faults.values() if fault.began.kind.startswith(of)]


def extra_count(facts: Facts) -> int:
    """How many executions were more than the tasks themselves asked for."""
    return sum(1 for _ in extra_executions(facts))


def fault_counts(facts: Facts) -> Counter[str]:
    """How many faults of each kind there were."""
    return Counter(fault.began.kind for fault in facts.faults.values())


def ends(facts: Facts) -> Counter[str]:
    """How many tasks ended in each state."""
    return Counter(final.state for story in facts.tasks.values() if (final := story.final) is not None)


def summary(seconds: list[float]) -> str:
    """The median and the worst."""
    if not seconds:
        return "none"
    ordered = sorted(seconds)
    return f"p50 {ordered[len(ordered) // 2]:.2f} s, worst {ordered[-1]:.2f} s, of {len(ordered)}"
