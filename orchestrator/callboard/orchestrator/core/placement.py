"""Placement: filter, score, select (the filters are complete, see `queue` and `filters`).

The eligible agent with the highest score gets the task. The score is a sum of parts, each between 0 and 1 by its
weight: the strategy's, the share of the task's preferences that the agent meets, and whether it ran the task's
affinity key last. A retry would rather have another agent than the one that failed, above all else; it never insists.

At most `ranked_agents` (64) of the eligible agents with room are ranked, drawn evenly (and the one of the affinity
key), so that a decision costs the same in any fleet. Ties fall to the seeded draw.
"""

from collections.abc import Callable, Sequence
from typing import Final

from callboard.orchestrator.core.classes import PlacementClass
from callboard.orchestrator.core.dice import Dice
from callboard.orchestrator.core.model import Agent, Needs, Task
from callboard.orchestrator.core.performance import Performance
from callboard.orchestrator.core.retry import COSTS_AN_ATTEMPT
from callboard.schemas.vocabulary import TaskAssignmentStrategy
from callboard.schemas.why import AgentScore

EXPLORE_ONE_IN: Final = 16
"""How often `performance_based` gives the turn to whoever waited longest for one."""
PREFERENCE_WEIGHT: Final = 2.0
AFFINITY_WEIGHT: Final = 4.0
RETRY_PENALTY: Final = 10.0
"""Larger than all other parts together."""
KEPT_SCORES: Final = 5
"""Of each decision, for `why`."""
REMEMBERED_AFFINITIES: Final = 10_000

Scorer = Callable[[Sequence[Agent], Needs, Performance], list[float]]
"""A strategy: the score of each agent. All at once, since a call for each would cost more than the score."""


def by_turn(agents: Sequence[Agent], _needs: Needs, _performance: Performance) -> list[float]:
    """Equal turns: the longer ago an agent was chosen, the higher. In (0, 1]."""
    return [1 / (1 + agent.turn) for agent in agents]


def by_room(agents: Sequence[Agent], _needs: Needs, _performance: Performance) -> list[float]:
    """The share of free slots; offers in flight count as used. In [0, 1]."""
    return [1 - len(agent.holds) / agent.slots for agent in agents]


def by_fit(agents: Sequence[Agent], needs: Needs, _performance: Performance) -> list[float]:
    """The tightest fit: the fewer capabilities beyond those needed, the higher. In (0, 1]."""
    needed = len(needs.capabilities)
    return [1 / (1 + len(agent.capabilities) - needed) for agent in agents]


def by_performance(agents: Sequence[Agent], needs: Needs, performance: Performance) -> list[float]:
    """Success and speed on this type, halved towards a full agent so that none is flooded. In [0, 1]."""
    return [
        performance.quality(agent.agent_id, needs.type) * (1 - len(agent.holds) / agent.slots / 2) for agent in agents
    ]


SCORERS: Final[dict[TaskAssignmentStrategy, Scorer]] = {
    TaskAssignmentStrategy.ROUND_ROBIN: by_turn,
    TaskAssignmentStrategy.AVAILABILITY_BASED: by_room,
    TaskAssignmentStrategy.CAPABILITY_MATCH: by_fit,
    TaskAssignmentStrategy.PERFORMANCE_BASED: by_performance,
}
_NAMES: Final = {strategy: strategy.value for strategy in TaskAssignmentStrategy}
"""An enumeration's `value` is a call each time."""


class Placer:
    """Chooses an agent among the free ones of a class."""

    def __init__(self, dice: Dice, performance: Performance, *, ranked_agents: int) -> None:
        self._dice = dice
        self._performance = performance
        self._ranked_agents = ranked_agents
        self._turn = 0
        self._affinities: dict[str, str] = {}
        """The agent that ran each affinity key last; the least recently used make room."""

    def choose(
        self, task: Task, placement: PlacementClass, agents: dict[str, Agent], strategy: TaskAssignmentStrategy
    ) -> tuple[Agent, tuple[AgentScore, ...]]:
        """The agent for `task`, whose turn is noted, and the best scores. `placement.free` must not be empty."""
        ids = placement.free.sample(self._ranked_agents, self._dice)
        kin = None if task.affinity_key is None else self._affinities.get(task.affinity_key)
        if kin is not None and kin in placement.free and kin not in ids:
            ids.append(kin)
        drawn = list(map(agents.__getitem__, ids))
        if strategy is TaskAssignmentStrategy.PERFORMANCE_BASED and self._dice.below(EXPLORE_ONE_IN) == 0:
            strategy = TaskAssignmentStrategy.ROUND_ROBIN
        shares = SCORERS[strategy](drawn, task.needs, self._performance)
        others = self._other_parts(task, drawn, kin)
        totals = [share + sum(more.values()) for share, more in zip(shares, others, strict=True)] if others else shares
        # Of equals the first: the sample begins at a random one.
        best = sorted(range(len(drawn)), key=totals.__getitem__, reverse=True)[:KEPT_SCORES]
        self._turn += 1
        chosen = drawn[best[0]]
        chosen.turn = self._turn
        return chosen, tuple(
            AgentScore(
                agent_id=ids[place],
                total=totals[place],
                parts={_NAMES[strategy]: shares[place], **(others[place] if others else {})},
            )
            for place in best
        )

    @staticmethod
    def _other_parts(task: Task, drawn: list[Agent], kin: str | None) -> list[dict[str, float]]:
        """What the score of each of `drawn` has beside the strategy's part; nothing at all if none has anything."""
        shunned = shunned_agent(task)
        if not task.prefers and kin is None and shunned is None:
            return []
        found: list[dict[str, float]] = []
        for agent in drawn:
            parts: dict[str, float] = {}
            if task.prefers:
                parts["prefers"] = PREFERENCE_WEIGHT * preferred_share(task, agent)
            if agent.agent_id == kin:
                parts["affinity"] = AFFINITY_WEIGHT
            if agent.agent_id == shunned:
                parts["retry"] = -RETRY_PENALTY
            found.append(parts)
        return found

    def ran(self, task: Task) -> None:
        """Remember who runs `task`, for its affinity key."""
        if task.affinity_key is None or task.agent_id is None:
            return
        self._affinities.pop(task.affinity_key, None)
        self._affinities[task.affinity_key] = task.agent_id
        if len(self._affinities) > REMEMBERED_AFFINITIES:
            del self._affinities[next(iter(self._affinities))]


def preferred_share(task: Task, agent: Agent) -> float:
    """The weight of the preferences that `agent` meets, as a share of all of them. In [0, 1]."""
    met = sum(weight for test, weight in task.prefers if test.holds(agent.labels))
    return met / sum(weight for _, weight in task.prefers)


def shunned_agent(task: Task) -> str | None:
    """The agent that a retry would rather avoid: the one on which the last attempt was spent."""
    end = task.last_end
    return end.agent_id if end is not None and end.outcome in COSTS_AN_ATTEMPT else None
