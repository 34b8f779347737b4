"""After a commit: what follows from tasks that were not written is neither told nor done; their callers hear why."""

from msgspec.structs import replace
from tests.support.core_rig import Rig

from callboard.orchestrator.announcements import told_by
from callboard.orchestrator.core.effects import Answer, Batch
from callboard.orchestrator.settling import Settled, settle
from callboard.orchestrator.store.port import Committed, OfferContent
from callboard.orchestrator.tickets import Fresh, Ticket, TicketBook
from callboard.schemas.errors import OrchestratorError
from callboard.schemas.tasks import TaskSpec
from callboard.schemas.vocabulary import TaskState


class Caller:
    """Who submits, and is answered by nobody here."""

    def answer(self, message: object) -> None:
        raise AssertionError(message)

    def refuse(self, error: OrchestratorError) -> None:
        raise AssertionError(error)


def sealed() -> tuple[Batch, list[str], dict[str, Ticket]]:
    """A batch of two tasks, the second with a key, their ids, and their tickets by id."""
    rig, book = Rig(), TicketBook()
    rig.registered(slots=2)
    ids, tickets = [], {}
    for key in (None, "order-7"):
        ticket = book.open(Caller())
        ticket.fresh = Fresh(OfferContent(spec=b"{}", payload=b"null", progress=None), "client", key, b"digest")
        event = replace(rig.submitted(TaskSpec(type="work", key=key)), ticket=ticket)
        rig.tell(event)
        ids.append(event.task_id)
        tickets[event.task_id] = ticket
    return rig.seal(), ids, tickets


def about(left: Settled) -> set[str | None]:
    """Whom its effects are about."""
    return {getattr(effect, "task_id", None) for effect in left.effects}


def test_all_that_was_written_is_told_and_done() -> None:
    batch, ids, _ = sealed()
    told, _ = told_by(batch)
    left = settle(batch, told, Committed())
    assert left.told == told
    assert left.effects == (*batch.announcements, *batch.effects)
    assert left.counts == batch.counts
    assert set(ids) <= about(left)
    assert (left.repeats, left.unwritten) == ((), ())


def test_a_task_whose_key_another_has_never_existed() -> None:
    batch, (other, keyed), tickets = sealed()
    told, _ = told_by(batch)
    left = settle(batch, told, Committed(refused=frozenset({keyed})))
    assert {change.about for change in told} == {other, keyed}
    assert {change.about for change in left.told} == {other}
    assert keyed not in about(left)
    assert any(isinstance(effect, Answer) and effect.task_id == other for effect in left.effects)
    [repeat] = left.repeats
    assert (repeat.ticket, repeat.scope, repeat.key, repeat.digest) == (tickets[keyed], "client", "order-7", b"digest")
    assert left.unwritten == []
    assert batch.counts[TaskState.ASSIGNED] == 2
    assert left.counts[TaskState.ASSIGNED] == 1


def test_a_task_that_the_database_did_not_take_is_refused() -> None:
    batch, ids, tickets = sealed()
    told, _ = told_by(batch)
    left = settle(batch, told, Committed(stale=frozenset(ids)))
    assert left.told == []
    assert not set(ids) & about(left)
    assert left.unwritten == [(tickets[task_id], task_id) for task_id in ids]
    assert left.repeats == []
