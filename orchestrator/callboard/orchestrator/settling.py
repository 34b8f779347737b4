"""What is left of a batch once it is committed: all of it, but for what follows from tasks that were not written.

Rules:
- Nobody is told of a task that does not exist, and nothing is done for it.
- Who submitted a task whose key another one has is answered with that one (`repeats`).
- Who submitted a task that the database did not take is refused: a bug of ours.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from callboard.orchestrator.core.effects import Announcement, Answer, Batch, Effect
from callboard.orchestrator.repeats import Repeat
from callboard.orchestrator.store.port import Committed
from callboard.orchestrator.tickets import Ticket
from callboard.schemas.events import Change
from callboard.schemas.vocabulary import TaskState


@dataclass(frozen=True, slots=True)
class Settled:
    """What is to be done after a commit.

    Attributes:
        told: what is to be published.
        effects: what is to be done, in this order.
        counts: the pool's tasks by state.
        repeats: submissions to be answered with the tasks that have their keys.
        unwritten: submissions to be refused, and the ids that their tasks would have had.
    """

    told: Sequence[Change]
    effects: Sequence[Effect | Announcement]
    counts: dict[TaskState, int]
    repeats: Sequence[Repeat] = ()
    unwritten: Sequence[tuple[Ticket, str]] = ()


def settle(batch: Batch, told: Sequence[Change], committed: Committed) -> Settled:
    """What `batch`, which tells `told`, leaves to be done."""
    effects = (*batch.announcements, *batch.effects)
    dropped = committed.refused | committed.stale
    if not dropped:
        return Settled(told, effects, batch.counts)
    left: list[Effect | Announcement] = []
    repeats: list[Repeat] = []
    unwritten: list[tuple[Ticket, str]] = []
    for effect in effects:
        task_id = getattr(effect, "task_id", None)
        if task_id not in dropped:
            left.append(effect)
        elif isinstance(effect, Answer) and isinstance(effect.ticket, Ticket):
            fresh = effect.ticket.fresh
            if fresh is not None and fresh.key is not None and task_id in committed.refused:
                repeats.append(Repeat(effect.ticket, fresh.scope, fresh.key, fresh.digest))
            else:
                unwritten.append((effect.ticket, task_id))
    return Settled(
        [change for change in told if change.about not in dropped],
        left,
        _counts_less_refused(batch, committed.refused),
        repeats,
        unwritten,
    )


def _counts_less_refused(batch: Batch, refused: frozenset[str]) -> dict[TaskState, int]:
    """What is durable of the batch's counts: a task whose key was another's never existed."""
    never = Counter(change.columns.state for change in batch.changes.tasks if change.columns.task_id in refused)
    return {state: count - never[state] for state, count in batch.counts.items()}
