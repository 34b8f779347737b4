"""Placement: filter, score, select (the filters are complete, see `queue` and `filters`).

A strategy is a scorer: the eligible agent with the highest score gets the task. At most `ranked_agents` (64) of the
eligible agents with room are ranked, drawn evenly, so that a decision costs the same in any fleet. Ties fall to the
seeded draw. A retry prefers another agent than the one that failed, whatever the strategy; it never insists.
"""

from collections.abc import Callable
from typing import Final

from callboard.orchestrator.core.dice import Dice
from callboard.orchestrator.core.model import Agent, Needs, Task
from callboard.orchestrator.core.performance import Performance
from callboard.orchestrator.core.queue import PlacementClass
from callboard.orchestrator.core.retry import COSTS_AN_ATTEMPT
from callboard.schemas.vocabulary import TaskAssignmentStrategy

EXPLORE_ONE_IN: Final = 16
"""How often `performance_based` gives the turn to whoever waited longest for one."""
RETRY_PENALTY: Final = 10.0
"""Larger than any difference of scores in one strategy, turns apart, which are ranked relatively."""

Scorer = Callable[[Agent, Needs, Performance], float]


def by_turn(agent: Agent, _needs: Needs, _performance: Performance) -> float:
    """Equal turns: the longer ago an agent was chosen, the higher. In (0, 1]."""
    return 1 / (1 + agent.turn)


def by_room(agent: Agent, _needs: Needs, _performance: Performance) -> float:
    """The share of free slots; offers in flight count as used. In [0, 1]."""
    return 1 - len(agent.holds) / agent.slots


def by_fit(agent: Agent, needs: Needs, _performance: Performance) -> float:
    """The tightest fit: the fewer capabilities beyond those needed, the higher. In (0, 1]."""
    return 1 / (1 + len(agent.capabilities) - len(needs.capabilities))


def by_performance(agent: Agent, needs: Needs, performance: Performance) -> float:
    """Success and speed on this type, halved towards a full agent so that none is flooded. In [0, 1]."""
    load = len(agent.holds) / agent.slots
    return performance.quality(agent.agent_id, needs.type) * (1 - load / 2)


SCORERS: Final[dict[TaskAssignmentStrategy, Scorer]] = {
    TaskAssignmentStrategy.ROUND_ROBIN: by_turn,
    TaskAssignmentStrategy.AVAILABILITY_BASED: by_room,
    TaskAssignmentStrategy.CAPABILITY_MATCH: by_fit,
    TaskAssignmentStrategy.PERFORMANCE_BASED: by_performance,
}


class Placer:
    """Chooses an agent among the free ones of a class."""

    def __init__(self, dice: Dice, performance: Performance, *, ranked_agents: int) -> None:
        self._dice = dice
        self._performance = performance
        self._ranked_agents = ranked_agents
        self._turn = 0

    def choose(
        self, task: Task, placement: PlacementClass, agents: dict[str, Agent], strategy: TaskAssignmentStrategy
    ) -> Agent:
        """The agent for `task`, and its turn is noted. `placement.free` must not be empty."""
        drawn = [agents[agent_id] for agent_id in placement.free.sample(self._ranked_agents, self._dice)]
        if strategy is TaskAssignmentStrategy.PERFORMANCE_BASED and self._dice.below(EXPLORE_ONE_IN) == 0:
            strategy = TaskAssignmentStrategy.ROUND_ROBIN
        scorer = SCORERS[strategy]
        needs, performance = task.needs, self._performance
        shunned = shunned_agent(task)
        chosen, best = drawn[0], float("-inf")
        for agent in drawn:
            score = scorer(agent, needs, performance)
            if agent.agent_id == shunned:
                score -= RETRY_PENALTY
            if score > best:
                chosen, best = agent, score
        self._turn += 1
        chosen.turn = self._turn
        return chosen


def shunned_agent(task: Task) -> str | None:
    """The agent that a retry would rather avoid: the one on which the last attempt was spent."""
    end = task.last_end
    return end.agent_id if end is not None and end.outcome in COSTS_AN_ATTEMPT else None
