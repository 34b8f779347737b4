"""The rules about many tasks at once: slots, keys, order, ownership, and what faults may cost.

The database's side is looked at after each transaction, since within one the order of the rows means nothing.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Final

from tests.chaos.facts import FINAL, HELD, Facts, Fault, Life, TaskStory
from tests.chaos.history import Finished, LeaseRow, Offered, Row, Started

Stories = Iterator[str]

DRAINED_WITHIN_S: Final = 60.0
"""After the last fault: leases, back-offs and probes run out, then the rest is work:"""
WORKED_OFF_PER_S: Final = 20.0
"""so many tasks in a second at least."""
REACH_S: Final = 30.0
"""A fault may show so long after its end: leases of agents, a grace as long, and repeated offers run out one after the
other."""
FREE: Final = frozenset({"failed", "timed_out"})
"""Ends for which the task itself is to blame: its next attempt is no extra one."""


def slots_are_kept(facts: Facts) -> Stories:
    """No agent is given more attempts than it has slots, and none runs more handlers."""
    held: dict[Life, set[str]] = defaultdict(set)
    holder: dict[str, Life] = {}
    for transaction in facts.transactions.values():
        touched: set[Life] = set()
        for row in transaction.rows:
            before = holder.pop(row.task_id, None)
            if before is not None:
                held[before].discard(row.task_id)
            if row.op != "delete" and row.state in HELD and row.agent_id is not None and row.incarnation is not None:
                life = holder[row.task_id] = (row.agent_id, row.incarnation)
                held[life].add(row.task_id)
                touched.add(life)
        for life in touched:
            if life in facts.lives and len(held[life]) > facts.lives[life].slots:
                yield f"{life[0]} was given {sorted(held[life])} in {facts.lives[life].slots} slots"
    for life, events in facts.by_life.items():
        running: set[tuple[str, int]] = set()
        for event in events:
            if isinstance(event, Started):
                running.add((event.task_id, event.attempt))
                if life in facts.lives and len(running) > facts.lives[life].slots:
                    yield f"{life[0]} runs {sorted(running)} in {facts.lives[life].slots} slots"
            elif isinstance(event, Finished):
                running.discard((event.task_id, event.attempt))


def concurrency_keys_are_kept(facts: Facts) -> Stories:
    """No attempt is given out for a key that has as many as the lowest limit among its live tasks allows."""
    limits: dict[str, dict[str, int]] = defaultdict(dict)
    held: dict[str, set[str]] = defaultdict(set)
    for transaction in facts.transactions.values():
        rows = {row.task_id: row for row in transaction.rows if row.op != "delete" and row.concurrency_key is not None}
        given: dict[str, int] = {}
        for row in rows.values():
            key, limit = str(row.concurrency_key), row.concurrency_limit or 1
            is_new = row.task_id not in limits[key]
            if row.state in HELD and row.task_id not in held[key]:
                given[key] = min(given.get(key, limit), limit)
            (held[key].add if row.state in HELD else held[key].discard)(row.task_id)
            if row.state in FINAL:
                limits[key].pop(row.task_id, None)
            elif not is_new:
                limits[key][row.task_id] = limit
        for key, limit in given.items():
            lowest = min([limit, *limits[key].values()])
            if len(held[key]) > lowest:
                yield f"concurrency key {key} has {sorted(held[key])}, and its limit is {lowest}"
        # A limit that came with this transaction may have come after what it gave out.
        for row in rows.values():
            if row.state not in FINAL:
                limits[str(row.concurrency_key)][row.task_id] = row.concurrency_limit or 1


def priority_holds(facts: Facts) -> Stories:
    """At every decision the first one of those that waited and want the same gets the place.

    Who was declined is not counted as waiting: it may not go where it was declined, for a while. Nor is who may be
    paused.
    """
    waiting: dict[tuple[str, str | None], dict[str, list[tuple[int, int, str]]]] = defaultdict(
        lambda: defaultdict(list)
    )
    queued: set[str] = set()
    attempts: Counter[str] = Counter()
    for transaction in facts.transactions.values():
        rows = {row.task_id: row for row in transaction.rows if row.op != "delete"}
        last_given: dict[tuple[str, str | None], Row] = {}
        for row in rows.values():
            queued.discard(row.task_id)
        for row in rows.values():
            kind = (row.placement, row.concurrency_key)
            is_given = row.state in HELD and row.attempt > attempts[row.task_id]
            attempts[row.task_id] = row.attempt
            if is_given and (kind not in last_given or row.order > last_given[kind].order):
                last_given[kind] = row
        for kind, row in last_given.items():
            for task_type, heap in waiting[kind].items():
                while heap and heap[0][2] not in queued:
                    heapq.heappop(heap)
                is_first = not heap or heap[0] >= row.order
                if not is_first and not _may_be_paused(facts, task_type, row.at_ns):
                    yield f"{row.task_id} was given out, and {heap[0][2]} had waited before it"
        for row in rows.values():
            if row.state == "queued" and not (row.ends and row.ends[-1].outcome == "declined"):
                queued.add(row.task_id)
                heapq.heappush(waiting[row.placement, row.concurrency_key][row.type], row.order)


def _may_be_paused(facts: Facts, task_type: str, at_ns: int) -> bool:
    return any(pause.may_hold(task_type, at_ns) for pause in facts.pauses)


def epochs_rise(facts: Facts) -> Stories:
    """The lease's epoch never falls, its batches follow one another, and only its owner's batch writes tasks."""
    epoch = batch = 0
    for event in facts.log:
        if isinstance(event, LeaseRow):
            follows = event.epoch > epoch or (event.epoch == epoch and batch <= event.batch <= batch + 1)
            if not follows:
                yield f"the lease goes from epoch {epoch}, batch {batch} to epoch {event.epoch}, batch {event.batch}"
            epoch, batch = event.epoch, event.batch
        elif event.op != "delete" and (event.epoch, event.batch) not in {(epoch, batch), (epoch, batch + 1)}:
            yield (
                f"{event.task_id} was written by epoch {event.epoch}, batch {event.batch}, "
                f"in epoch {epoch}, batch {batch}"
            )


def agents_follow_the_highest_epoch(facts: Facts) -> Stories:
    """An agent starts nothing that an owner offered which it knows to be replaced."""
    for life, events in facts.by_life.items():
        highest = 0
        offered: dict[tuple[str, int], int] = {}
        for event in events:
            ref = (event.task_id, event.attempt)
            if isinstance(event, Offered):
                offered[ref] = max(event.epoch, offered.get(ref, 0))
            elif isinstance(event, Started):
                epoch = offered.get(ref, 0)
                if epoch < highest:
                    yield f"{life[0]} started {event.task_id}/{event.attempt} of epoch {epoch}, and knew {highest}"
                highest = max(highest, epoch)


def the_backlog_drains(facts: Facts) -> Stories:
    """Once all faults are over every task ends, and as soon as the work that had piled up allows."""
    healed_ns = facts.healed_ns
    allowed_s = DRAINED_WITHIN_S + (0 if healed_ns is None else _unfinished(facts, healed_ns) / WORKED_OFF_PER_S)
    for story in facts.tasks.values():
        final = story.final
        if story.rows and final is None and not story.accepted:
            yield f"{story.task_id} never ended: it is {story.rows[-1].state}"
        elif final is not None and healed_ns is not None:
            late_s = (final.at_ns - healed_ns) / 1e9
            if late_s > allowed_s:
                yield f"{story.task_id} ended {late_s:.1f} s after the last fault"


def _unfinished(facts: Facts, at_ns: int) -> int:
    finals = (story.final for story in facts.tasks.values() if story.rows and story.rows[0].at_ns < at_ns)
    return sum(1 for final in finals if final is None or final.at_ns > at_ns)


def only_faults_run_anything_twice(facts: Facts) -> Stories:
    """Each extra execution is paid for by a fault that could cause it; without a fault there is none."""
    budgets = {number: Counter(fault.began.agents) for number, fault in facts.faults.items()}
    for at_ns, agent_id, story in sorted(extra_executions(facts)):
        for number, fault in facts.faults.items():
            if budgets[number][agent_id] > 0 and _reaches(fault, at_ns):
                budgets[number][agent_id] -= 1
                break
        else:
            yield story


def _reaches(fault: Fault, at_ns: int) -> bool:
    return fault.began.at_ns <= at_ns and (fault.ended_ns is None or at_ns <= fault.ended_ns + REACH_S * 1e9)


def extra_executions(facts: Facts) -> Iterator[tuple[int, str, str]]:
    """When each began to be needed, whose attempt was given up, and the story."""
    for story in facts.tasks.values():
        yield from _extra(story)


def _extra(story: TaskStory) -> Iterator[tuple[int, str, str]]:
    before: Started | None = None
    for start in sorted(story.starts, key=lambda start: start.attempt):
        if before is not None:
            end, row = story.ends.get(before.attempt, (None, None))
            what = f"{story.task_id}/{before.attempt} of {before.agent_id}"
            if before.attempt == start.attempt:
                yield start.at_ns, start.agent_id, f"{what} was started twice"
            elif end is None or row is None:
                yield start.at_ns, before.agent_id, f"{what} never ended, and {start.attempt} was started"
            elif end.outcome not in FREE:
                yield row.at_ns, before.agent_id, f"{what} was started, {end.outcome}, and run again without a fault"
        before = start


POOL_RULES: Final = (
    slots_are_kept,
    concurrency_keys_are_kept,
    priority_holds,
    epochs_rise,
    agents_follow_the_highest_epoch,
    the_backlog_drains,
    only_faults_run_anything_twice,
)
