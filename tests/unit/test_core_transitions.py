"""The table of a task's life: complete, closed, and every move of it happens (protocol, section 4)."""

from collections.abc import Callable

import pytest
from tests.support.core_rig import Rig, given_up

from callboard.orchestrator.core import moves
from callboard.orchestrator.core.presence import set_liveness
from callboard.orchestrator.core.settings import CoreSettings
from callboard.orchestrator.core.transitions import AGENT_MOVES, TASK_MOVES, IllegalMoveError, Move, after
from callboard.schemas.tasks import Backoff, TaskError
from callboard.schemas.vocabulary import FINAL_TASK_STATES, AgentState, Outcome, TaskState

S = TaskState
FINAL_ERROR = TaskError(message="never", retryable=False)


def test_every_state_is_present_and_final_ones_allow_nothing() -> None:
    assert set(TASK_MOVES) == set(TaskState)
    assert {state for state, row in TASK_MOVES.items() if row == {}} == FINAL_TASK_STATES


def test_every_move_is_used() -> None:
    assert {move for row in TASK_MOVES.values() for move in row} == set(Move)


def test_every_state_is_reached() -> None:
    assert {target for row in TASK_MOVES.values() for target in row.values()} == set(TaskState)


def test_what_is_legal_from_running_is_legal_from_assigned_and_leads_to_the_same() -> None:
    assert TASK_MOVES[S.RUNNING].items() <= TASK_MOVES[S.ASSIGNED].items()


def test_an_attempt_that_waits_for_an_answer_may_end_as_one_that_runs() -> None:
    assert TASK_MOVES[S.RUNNING].items() <= TASK_MOVES[S.WAITING_INPUT].items()


def test_an_illegal_move_raises_with_its_story() -> None:
    rig = Rig()
    task = rig.task(rig.submit())
    with pytest.raises(IllegalMoveError, match=r"queued: it cannot be accepted .*version 1"):
        moves.move(rig.machine.pool, task, Move.ACCEPTED, rig.now_ms)
    assert (task.state, task.version) == (S.QUEUED, 1)


def test_what_is_believed_of_an_agent_changes_along_its_table() -> None:
    beliefs = set(AgentState) - {AgentState.DRAINING, AgentState.QUARANTINED}
    assert set(AGENT_MOVES) == beliefs
    assert {target for targets in AGENT_MOVES.values() for target in targets} == beliefs
    rig = Rig()
    rig.registered("a")
    agent = rig.machine.pool.agents["a"]
    with pytest.raises(IllegalMoveError, match="agent a is online: it cannot be starting"):
        set_liveness(rig.machine.pool, agent, AgentState.STARTING, rig.now_ms)
    assert agent.liveness is AgentState.ONLINE


def waiting(rig: Rig, **fields: object) -> str:
    return rig.submit(**fields)


def deferred(rig: Rig, **fields: object) -> str:
    return rig.submit(delay_ms=1_000, **fields)


def assigned(rig: Rig, **fields: object) -> str:
    rig.registered("a")
    return rig.submit(max_attempts=1000, backoff=Backoff(initial_ms=10), **fields)


def running(rig: Rig, **fields: object) -> str:
    task_id = assigned(rig, **fields)
    rig.accept(task_id)
    return task_id


def asking(rig: Rig, **fields: object) -> str:
    task_id = running(rig, **fields)
    rig.question(task_id)
    return task_id


def poisoned(rig: Rig, task_id: str) -> None:
    """The third crash, after two on another agent; a crash of what was only offered is none, so it stands in here."""
    task = rig.task(task_id)
    task.crashes = 3
    task.crashed_on = ("b", "c")
    moves.end_attempt(rig.machine.pool, task, Outcome.CRASHED, rig.now_ms)


def lose(rig: Rig, _: str) -> None:
    rig.leave("a")


def expire(rig: Rig, _: str) -> None:
    rig.wait(500)


def exhaust(rig: Rig, task_id: str) -> None:
    rig.fail(task_id, FINAL_ERROR)


HOW: dict[Move, Callable[[Rig, str], object]] = {
    Move.ASSIGNED: lambda rig, _: rig.registered("a"),
    Move.ACCEPTED: Rig.accept,
    Move.ASKED: lambda rig, task_id: rig.question(task_id, 1 if rig.task(task_id).dialogue is None else 2),
    Move.ANSWERED: Rig.answer,
    Move.SUCCEEDED: Rig.complete,
    Move.COMPLETED: Rig.finish,
    Move.REQUEUED: lose,
    Move.BACKED_OFF: Rig.fail,
    Move.DUE: lambda rig, _: rig.wait(1_000),
    Move.EXHAUSTED: exhaust,
    Move.POISONED: poisoned,
    Move.CANCELLED: Rig.cancel,
    Move.EXPIRED: expire,
}
BRING = {
    S.QUEUED: waiting,
    S.DEFERRED: deferred,
    S.ASSIGNED: assigned,
    S.RUNNING: running,
    S.WAITING_INPUT: asking,
}


@pytest.mark.parametrize(
    ("state", "move"), [(state, move) for state, row in TASK_MOVES.items() for move in row], ids=str
)
def test_every_move_of_the_table_happens(state: TaskState, move: Move, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[TaskState, Move]] = []

    def recorded(state: TaskState, what: Move) -> TaskState | None:
        made.append((state, what))
        return after(state, what)

    rig = Rig(CoreSettings(adopt_late_results=True))
    rig.wait(15_000)  # the start counts as a take-over: limits of held attempts wait one lease
    if move is Move.ADOPTED:
        _, report = given_up(rig, backoff_ms=1_000 if state is S.QUEUED else 60_000)
        monkeypatch.setattr(moves, "after", recorded)
        rig.report(report)
        assert (state, move) in made
        return
    task_id = BRING[state](rig, ttl_ms=500) if move is Move.EXPIRED else BRING[state](rig)
    monkeypatch.setattr(moves, "after", recorded)
    HOW[move](rig, task_id)
    assert (state, move) in made
