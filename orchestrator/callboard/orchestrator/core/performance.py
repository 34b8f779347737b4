"""What the pool remembers of each agent's work per task type: decayed success rate and duration.

A hint for scoring, never truth: bounded, least recently used first out, gone at a restart, and gone with its agent.
"""

from dataclasses import dataclass, field
from typing import Final

DECAY: Final = 0.9
"""Each new outcome weighs 1 - DECAY against all before it."""
PRIOR_SUCCESS: Final = 0.9
PRIOR_WEIGHT: Final = 2.0
"""A newcomer counts as two outcomes at the prior rate, so that one failure does not condemn it."""
REMEMBERED: Final = 50_000


@dataclass(slots=True)
class Record:
    """Decayed counts of one (agent, type)."""

    weight: float = 0.0
    successes: float = 0.0
    mean_ms: float | None = None

    def count(self, *, succeeded: bool) -> None:
        """Weigh one more outcome."""
        self.weight = self.weight * DECAY + 1
        self.successes = self.successes * DECAY + succeeded

    @property
    def success_rate(self) -> float:
        """Between 0 and 1, pulled towards the prior while little is known."""
        return (self.successes + PRIOR_SUCCESS * PRIOR_WEIGHT) / (self.weight + PRIOR_WEIGHT)


@dataclass(slots=True)
class Whole(Record):
    """The same over all types of an agent."""

    types: set[str] = field(default_factory=set[str])


class Performance:
    """Records by (agent, type), and of each agent that has any, over all its types."""

    __slots__ = ("_best", "_by_agent", "_records")

    def __init__(self) -> None:
        self._records: dict[tuple[str, str], Record] = {}
        self._by_agent: dict[str, Whole] = {}
        self._best: dict[str, float] = {}

    def observe(self, agent_id: str, task_type: str, *, succeeded: bool, run_ms: int) -> None:
        """Learn from an attempt that ran `run_ms` and succeeded or not; duration counts for successes only."""
        self._whole_of(agent_id).count(succeeded=succeeded)
        record = self._record_of(agent_id, task_type)
        record.count(succeeded=succeeded)
        if succeeded:
            record.mean_ms = run_ms if record.mean_ms is None else DECAY * record.mean_ms + (1 - DECAY) * run_ms
            self._learn_best(task_type, record.mean_ms)

    def forget(self, agent_id: str) -> None:
        """The agent is forgotten: many come once and never again."""
        whole = self._by_agent.pop(agent_id, None)
        if whole is not None:
            for task_type in whole.types:
                del self._records[agent_id, task_type]

    def _whole_of(self, agent_id: str) -> Whole:
        """The agent's, moved to the recently used end; the least recently used one makes room."""
        whole = self._by_agent.pop(agent_id, None) or Whole()
        self._by_agent[agent_id] = whole
        if len(self._by_agent) > REMEMBERED:
            self.forget(next(iter(self._by_agent)))
        return whole

    def _record_of(self, agent_id: str, task_type: str) -> Record:
        """The same of one of its types; the agent is known."""
        record = self._records.pop((agent_id, task_type), None) or Record()
        self._records[agent_id, task_type] = record
        self._by_agent[agent_id].types.add(task_type)
        if len(self._records) > REMEMBERED:
            of_agent, of_type = next(iter(self._records))
            del self._records[of_agent, of_type]
            self._by_agent[of_agent].types.remove(of_type)
        return record

    def success_rate(self, agent_id: str) -> float | None:
        """The decayed share of successes over all types, `None` before the first outcome."""
        record = self._by_agent.get(agent_id)
        return None if record is None else record.successes / record.weight

    def quality(self, agent_id: str, task_type: str) -> float:
        """Success rate times relative speed, between 0 and 1: a newcomer's speed counts as the best known."""
        record = self._records.get((agent_id, task_type))
        if record is None:
            return PRIOR_SUCCESS
        if record.mean_ms is None:
            return record.success_rate
        best = self._best.get(task_type, record.mean_ms)
        return record.success_rate * (best + 1) / (max(record.mean_ms, best) + 1)

    def _learn_best(self, task_type: str, mean_ms: float) -> None:
        best = self._best.pop(task_type, mean_ms)
        # The best creeps up again, so that one lucky run is not the measure for ever.
        self._best[task_type] = min(mean_ms, best * 1.01 + 0.01)
        if len(self._best) > REMEMBERED:
            del self._best[next(iter(self._best))]
