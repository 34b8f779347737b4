"""Which rows of the tables a schedule went through: those of tasks, of agents, and of the SDK's sessions."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from callboard.agents.session import ledger
from callboard.agents.session import presence as session_presence
from callboard.agents.session.states import ATTEMPTS, PHASES, moved
from callboard.orchestrator.core import moves, presence
from callboard.orchestrator.core.transitions import AGENT_MOVES, TASK_MOVES, Move, after
from callboard.schemas.vocabulary import AgentState, TaskState

TRANSITIONS: Final[frozenset[str]] = frozenset(
    {f"task {state} {move}" for state, row in TASK_MOVES.items() for move in row}
    | {f"agent {state} {target}" for state, targets in AGENT_MOVES.items() for target in targets}
    | {f"phase {phase} {cause}" for phase, row in PHASES.items() for cause in row}
    | {f"attempt {state} {cause}" for state, row in ATTEMPTS.items() for cause in row}
)


class _Beliefs(dict[AgentState, frozenset[AgentState]]):
    """The table of agents, which counts the way that was asked for."""

    def __init__(self, tally: Counter[str]) -> None:
        super().__init__({state: _Targets(targets) for state, targets in AGENT_MOVES.items()})
        for state, targets in self.items():
            assert isinstance(targets, _Targets)
            targets.state, targets.tally = state, tally


class _Targets(frozenset[AgentState]):
    state: AgentState
    tally: Counter[str]

    def __contains__(self, target: object) -> bool:
        self.tally[f"agent {self.state} {target}"] += 1
        return super().__contains__(target)


@contextmanager
def counting_transitions(tally: Counter[str]) -> Iterator[None]:
    """Count the transitions of everybody meanwhile."""

    def count_task(state: TaskState, move: Move) -> TaskState | None:
        tally[f"task {state} {move}"] += 1
        return after(state, move)

    def counted(name: str) -> Callable[..., Any]:
        def count(table: Mapping[Any, Mapping[Any, Any]], state: Any, cause: Any, who: object) -> Any:  # noqa: ANN401 - as `moved`, for any table
            tally[f"{name} {state} {cause}"] += 1
            return moved(table, state, cause, who)

        return count

    places: list[tuple[Any, str, Any, Any]] = [
        (moves, "after", count_task, after),
        (presence, "AGENT_MOVES", _Beliefs(tally), AGENT_MOVES),
        (ledger, "moved", counted("attempt"), moved),
        (session_presence, "moved", counted("phase"), moved),
    ]
    for module, name, counter, _ in places:
        setattr(module, name, counter)
    try:
        yield
    finally:
        for module, name, _, own in places:
            setattr(module, name, own)
