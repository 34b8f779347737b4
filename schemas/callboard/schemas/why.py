"""The explanation of a decision (protocol, section 4, `why`)."""

from callboard.schemas.base import Message
from callboard.schemas.names import TaskId
from callboard.schemas.tasks import TaskSpec
from callboard.schemas.vocabulary import TaskState


class AskWhy(Message, frozen=True, kw_only=True):
    """`tasks.why`: about a task, or, as a dry run, about a specification that is not submitted."""

    task_id: TaskId | None = None
    task: TaskSpec | None = None

    def __post_init__(self) -> None:
        if (self.task_id is None) == (self.task is None):
            raise ValueError("give task_id or task, exactly one of them")


class AgentReason(Message, frozen=True, kw_only=True):
    """Why an agent does not take the task now."""

    agent_id: str
    reason: str


class AgentScore(Message, frozen=True, kw_only=True):
    """What an agent scored when the task was placed; `total` is the sum of the parts."""

    agent_id: str
    total: float
    parts: dict[str, float]


class Why(Message, frozen=True, kw_only=True):
    """For a waiting task or a dry run: who could take it and why nobody does. Else: the scores of its placement.

    `position` is 1 for the first of those that wait for the same agents. `candidates` counts the agents that could ever
    take it, `excluded` the agents by the first reason that keeps each from taking it now; those that stopped count not.
    """

    state: TaskState | None = None
    position: int | None = None
    candidates: int | None = None
    excluded: dict[str, int] | None = None
    agents: list[AgentReason] | None = None
    unblocked_by: list[str] | None = None
    scores: list[AgentScore] | None = None
