"""What is known of young tasks is what a read would say; and it is bounded."""

import pytest
from msgspec import Raw
from tests.support.core_rig import POOL, Rig, done

from callboard.orchestrator.recent import ENTRY_BYTES, RecentTasks
from callboard.schemas.tasks import Backoff, Requirements, TaskError, TaskSpec
from callboard.schemas.times import to_instant


def committed(rig: Rig, recent: RecentTasks) -> None:
    """Everything that the rig's batches wrote, as the owner tells it."""
    for batch in rig.batches:
        recent.note(batch.changes.tasks)
    rig.batches.clear()


def submit(rig: Rig, **fields: object) -> str:
    return rig.submit(payload=Raw(b"[1]"), description="d", metadata={"k": "v"}, key=f"key-{rig.ticket()}", **fields)


@pytest.mark.parametrize("how", ["succeeds", "fails", "cancelled", "retried", "expires at once"])
def test_a_document_is_what_a_read_says(how: str) -> None:
    rig, recent = Rig(), RecentTasks(POOL)
    rig.registered(slots=2)
    backoff = Backoff(initial_ms=1)
    task_id = submit(rig, max_attempts=3, backoff=backoff) if how != "expires at once" else ""
    if how == "succeeds":
        rig.accept(task_id)
        rig.progress(task_id)
        rig.complete(task_id, b'{"done": true}')
    elif how == "fails":
        rig.fail(task_id, TaskError(message="no", retryable=False))
    elif how == "cancelled":
        rig.cancel(task_id, "enough")
    elif how == "retried":
        rig.fail(task_id, TaskError(message="once"))
        rig.wait(10)
        rig.crash("a")
        rig.complete(task_id)
    else:
        task_id = rig.submit(ttl_ms=1, delay_ms=5)
        rig.wait(1)
    committed(rig, recent)
    assert rig.document(task_id).state.is_final
    assert recent.ended([task_id, "another"]) == {task_id: rig.document(task_id)}
    assert recent.ended([task_id]), "who asks late gets it too"
    assert recent.content(task_id) is None


def test_an_offer_carries_what_a_read_says() -> None:
    rig, recent = Rig(), RecentTasks(POOL)
    waiting = submit(rig)
    rig.registered()
    rig.progress(waiting)
    rig.fail(waiting, TaskError(message="once"))
    committed(rig, recent)
    assert recent.content(waiting) == done(rig.store.offers([waiting]))[waiting]
    assert recent.ended([waiting]) == {}
    assert recent.content("another") is None


def test_a_task_that_was_not_seen_from_its_birth_is_not_known() -> None:
    rig, recent = Rig(), RecentTasks(POOL)
    rig.registered()
    task_id = submit(rig)
    rig.batches.clear()
    rig.complete(task_id)
    committed(rig, recent)
    assert recent.ended([task_id]) == {}
    assert len(recent) == 0


def test_a_refused_insert_is_forgotten() -> None:
    rig, recent = Rig(), RecentTasks(POOL)
    event = rig.submitted(TaskSpec(type="work", key="k"))
    rig.tell(event)
    recent.note(rig.seal().changes.tasks)
    recent.forget([event.task_id])
    assert len(recent) == 0


def test_a_refused_insert_that_was_final_at_once_is_forgotten() -> None:
    rig, recent = Rig(), RecentTasks(POOL)
    event = rig.submitted(TaskSpec(type="work", key="k", deadline=to_instant(rig.now_ms - 1)))
    rig.tell(event)
    [change] = rig.seal().changes.tasks
    assert change.ending is not None
    recent.note([change])
    recent.forget([event.task_id])
    assert len(recent) == 0


def test_it_keeps_no_more_than_it_is_allowed_to() -> None:
    rig, recent = Rig(), RecentTasks(POOL, most_bytes=16 * ENTRY_BYTES)
    tasks = [submit(rig) for _ in range(50)]
    committed(rig, recent)
    assert 10 <= len(recent) <= 16
    rig.registered(slots=50)
    for task_id in tasks:
        rig.complete(task_id)
    committed(rig, recent)
    kept = recent.ended(tasks)
    assert 1 <= len(kept) <= 8
    again = submit(rig)
    rig.complete(again)
    committed(rig, recent)
    assert again in recent.ended([again]), "the last ones are kept"
    assert len(recent) <= 8


def test_a_deep_queue_does_not_keep_out_what_begins_at_once() -> None:
    rig, recent = Rig(), RecentTasks(POOL, most_bytes=16 * ENTRY_BYTES)
    for _ in range(50):
        submit(rig, requires=Requirements(capabilities=["rare"]))
    rig.registered(slots=2)
    task_id = submit(rig)
    committed(rig, recent)
    assert recent.content(task_id) is not None
    rig.complete(task_id)
    committed(rig, recent)
    assert list(recent.ended([task_id])) == [task_id]


def test_errors_and_progress_count_too() -> None:
    rig, recent = Rig(), RecentTasks(POOL, most_bytes=32 * ENTRY_BYTES)
    rig.registered(slots=20)
    tasks = [submit(rig) for _ in range(20)]
    for task_id in tasks:
        rig.accept(task_id)
        rig.progress(task_id)
        rig.fail(task_id, TaskError(message="x" * 4 * ENTRY_BYTES, retryable=False))
    committed(rig, recent)
    assert 1 <= len(recent.ended(tasks)) <= 3
    recent.forget(tasks)
    again = [submit(rig) for _ in range(20)]
    committed(rig, recent)
    assert len(recent) == 20, "all room is given back"
    assert all(recent.content(task_id) for task_id in again)


def test_a_result_that_is_larger_than_all_that_may_be_kept_is_read() -> None:
    rig, recent = Rig(), RecentTasks(POOL, most_bytes=16 * ENTRY_BYTES)
    rig.registered()
    task_id = submit(rig)
    rig.complete(task_id, b'"' + b"x" * 9 * ENTRY_BYTES + b'"')
    committed(rig, recent)
    assert recent.ended([task_id]) == {}
    assert len(recent) == 0
