"""The changes of a batch as arrays, one for each column of each part of its statement."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from callboard.orchestrator.core.changes import Changes
from callboard.orchestrator.store import batch
from callboard.orchestrator.store.literals import literal
from callboard.orchestrator.store.outbox import pressed
from callboard.orchestrator.store.port import NO_EVENTS, NOTHING_PUBLISHED

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from callboard.orchestrator.core.changes import AgentRow, Ending, NewTask, TaskChange, TaskColumns
    from callboard.orchestrator.store.batch import Part
    from callboard.orchestrator.store.port import Events, Published

_json = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class Rows:
    """The parts that a batch has, and their arrays in the order of the statement's parameters, some as literals."""

    parts: tuple[Part, ...]
    arrays: list[list[Any] | str]


def rows_of(changes: Changes, events: Events = NO_EVENTS, published: Published = NOTHING_PUBLISHED) -> Rows:
    """Sort the changes, and what is told of them, into the parts of a statement."""
    claims: list[tuple[Any, ...]] = []
    inserts: list[tuple[Any, ...]] = []
    births_and_deaths: list[tuple[Any, ...]] = []
    updates: list[tuple[Any, ...]] = []
    finishes: list[tuple[Any, ...]] = []
    claimed: set[tuple[str, str]] = set()
    lines = [] if events.agents is None else [events.agents]
    for change in changes.tasks:
        new, ending = change.new, change.ending
        if new is not None and new.key_scope is not None and new.key is not None:
            # Within a batch the first task gets the key; one row cannot be claimed twice in a statement.
            if (new.key_scope, new.key) in claimed:
                continue
            claimed.add((new.key_scope, new.key))
            finished_ms = None if ending is None else ending.finished_ms
            claims.append((new.task_id, new.key_scope, new.key, new.digest, new.created_ms, finished_ms))
        if change.columns.task_id in events.tasks:
            lines.append(events.tasks[change.columns.task_id])
        if new is None:
            if ending is None:
                updates.append(_guard(change) + _standing(change) + _living(change.columns))
            else:
                finishes.append(_guard(change) + _standing(change) + _ending(ending))
        elif ending is None:
            inserts.append(_for_life(new) + _standing(change) + _living(change.columns))
        else:
            births_and_deaths.append(_for_life(new) + _standing(change) + _ending(ending))
    # Forgotten and back again within a batch: it is back.
    present = {row.agent_id for row in changes.agents}
    pairs: tuple[tuple[Part, Iterable[tuple[Any, ...]]], ...] = (
        (batch.CLAIMS, claims),
        (batch.INSERTS, inserts),
        (batch.BIRTHS_AND_DEATHS, births_and_deaths),
        (batch.UPDATES, updates),
        (batch.FINISHES, finishes),
        (batch.AGENTS, [_agent(row) for row in changes.agents]),
        (batch.FORGOTTEN_AGENTS, [(agent_id,) for agent_id in changes.forgotten_agents if agent_id not in present]),
        (batch.PAUSES, [(what,) for what in changes.pauses]),
        (batch.RESUMES, [(what,) for what in changes.resumes]),
        (
            batch.KEPT_DIALOGUES,
            [(row.task_id, _json.encode(row.dialogue)) for row in changes.dialogues if row.dialogue is not None],
        ),
        (batch.ENDED_DIALOGUES, [(row.task_id,) for row in changes.dialogues if row.dialogue is None]),
        (batch.KEPT_HOLDS, changes.kept_holds),
        (batch.DROPPED_HOLDS, [hold[:-1] for hold in changes.dropped_holds]),
        (batch.TOLD, [(pressed(lines),)] if lines else []),
        (batch.PUBLISHED, [] if published == NOTHING_PUBLISHED else [(n,) for place in published for n in place]),
    )
    filled = [(part, rows) for part, rows in pairs if rows]
    arrays = [
        literal(column) if is_literal else _array(column)
        for part, rows in filled
        for is_literal, column in zip(part.literals, zip(*rows, strict=True), strict=True)
    ]
    return Rows(tuple(part for part, _ in filled), arrays)


def _array(column: tuple[Any, ...]) -> list[Any]:
    """The values of a column; none for one of nulls only, since `unnest` fills up the shorter arrays with nulls."""
    return [] if column.count(None) == len(column) else list(column)


def halves(changes: Changes) -> Sequence[Changes]:
    """The changes cut in two, in their order; less than two changes are nothing to cut."""
    items: list[Changes] = [Changes(tasks=(change,)) for change in changes.tasks]
    items += [Changes(agents=(row,)) for row in changes.agents]
    # A deletion cannot be at fault, but must come after no row that it contradicts.
    present = {row.agent_id for row in changes.agents}
    items += [Changes(forgotten_agents=(name,)) for name in changes.forgotten_agents if name not in present]
    items += [Changes(pauses=(what,)) for what in changes.pauses]
    items += [Changes(resumes=(what,)) for what in changes.resumes]
    items += [Changes(dialogues=(row,)) for row in changes.dialogues]
    items += [Changes(kept_holds=(hold,)) for hold in changes.kept_holds]
    items += [Changes(dropped_holds=(hold,)) for hold in changes.dropped_holds]
    middle = len(items) // 2
    return [_joined(part) for part in (items[:middle], items[middle:]) if part] if middle else []


def _joined(items: Iterable[Changes]) -> Changes:
    items = list(items)
    return Changes(
        tasks=tuple(change for item in items for change in item.tasks),
        agents=tuple(row for item in items for row in item.agents),
        forgotten_agents=tuple(name for item in items for name in item.forgotten_agents),
        pauses=tuple(what for item in items for what in item.pauses),
        resumes=tuple(what for item in items for what in item.resumes),
        dialogues=tuple(row for item in items for row in item.dialogues),
        kept_holds=tuple(hold for item in items for hold in item.kept_holds),
        dropped_holds=tuple(hold for item in items for hold in item.dropped_holds),
    )


def placement_digest(placement: str) -> bytes:
    """16 bytes for a placement class, whose text may be longer than an index entry can be."""
    return hashlib.blake2b(placement.encode(), digest_size=16).digest()


def _for_life(new: NewTask) -> tuple[Any, ...]:
    return (
        new.task_id,
        new.type,
        new.priority,
        new.created_ms,
        new.order_ms,
        placement_digest(new.placement),
        new.deadline_ms,
        new.spec,
        new.payload,
        new.retry_of,
        new.concurrency_key,
        new.concurrency_limit,
        new.key is not None,
    )


def _guard(change: TaskChange) -> tuple[Any, ...]:
    # Without a guard nothing matches: a change that is neither new nor guarded is a bug, reported as stale.
    state, attempt = change.guard or ("", -1)
    return (change.columns.task_id, state, attempt)


def _standing(change: TaskChange) -> tuple[Any, ...]:
    columns = change.columns
    return (
        columns.state,
        columns.version,
        columns.attempt,
        columns.agent_id,
        columns.incarnation,
        columns.started_ms,
        columns.updated_ms,
        columns.reason,
        columns.progress,
        # JSON has no line breaks outside of its strings, and strings escape theirs.
        b"\n".join(map(_json.encode, change.ended)).decode() if change.ended else None,
    )


def _living(columns: TaskColumns) -> tuple[Any, ...]:
    return (
        columns.assigned_ms,
        columns.until_ms,
        columns.spent or None,
        columns.crashes or None,
        ",".join(columns.crashed_on) or None,
        _json.encode(columns.scores) if columns.scores else None,
    )


def _ending(ending: Ending) -> tuple[Any, ...]:
    return (
        ending.finished_ms,
        ending.result,
        None if ending.error is None else _json.encode(ending.error),
    )


def _agent(row: AgentRow) -> tuple[Any, ...]:
    return (
        row.agent_id,
        row.state,
        row.incarnation,
        _json.encode(row.replaced),
        row.role,
        _json.encode(row.capabilities),
        _json.encode(row.labels),
        _json.encode(row.metadata),
        row.slots,
        row.version,
        row.operator_drain,
        row.own_drain,
        row.spawned,
        row.seen_ms,
    )
