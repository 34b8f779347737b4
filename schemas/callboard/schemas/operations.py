"""Every exchange of the protocol in one table: its subject, who begins it, and the messages that go over it.

The contract artefacts (JSON Schemas, the AsyncAPI document, the golden messages) are drawn from it. Subjects are
templates below `<prefix>.v1.<pool>.` (protocol, section 1) with the parameters `agent_id`, `task_id` and `state`.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from callboard.schemas import agents, events, pools, status, tasks, why
from callboard.schemas.base import Message, Nothing


class Party(StrEnum):
    """Who begins an exchange."""

    CLIENT = "client"
    AGENT = "agent"
    ORCHESTRATOR = "orchestrator"


@dataclass(frozen=True, slots=True)
class Operation:
    """One exchange.

    Attributes:
        name: `tasks.submit`, `agent.heartbeat`, `to.assign`, `event.task`: the subject less its parameters.
        subject: below `<prefix>.v1.<pool>.`, e.g. `agent.{agent_id}.heartbeat`.
        sender: who sends `message`; agents and clients send to the orchestrator, the orchestrator to agents or to all.
        answer: what a request is answered with; `None` for what is published and not answered.
    """

    name: str
    subject: str
    sender: Party
    message: type[Message]
    answer: type[Message] | None
    summary: str

    @property
    def is_refusable(self) -> bool:
        """Whether the answer may be an error of section 2 instead: so for all that the orchestrator answers."""
        return self.answer is not None and self.sender is not Party.ORCHESTRATOR


def _client(name: str, message: type[Message], answer: type[Message], summary: str) -> Operation:
    return Operation(name, name, Party.CLIENT, message, answer, summary)


def _agent(verb: str, message: type[Message], answer: type[Message] | None, summary: str) -> Operation:
    return Operation(f"agent.{verb}", f"agent.{{agent_id}}.{verb}", Party.AGENT, message, answer, summary)


def _to_agent(verb: str, message: type[Message], answer: type[Message], summary: str) -> Operation:
    return Operation(f"to.{verb}", f"to.{{agent_id}}.{verb}", Party.ORCHESTRATOR, message, answer, summary)


def _event(name: str, subject: str, message: type[Message], summary: str) -> Operation:
    return Operation(name, subject, Party.ORCHESTRATOR, message, None, summary)


OPERATIONS: Final = (
    _client("status", Nothing, status.SystemStatus, "The pool's state in one document"),
    _client("tasks.submit", tasks.TaskSpec, tasks.SubmitAnswer, "Accept a task; answered after the commit"),
    _client(
        "tasks.submit_many", tasks.SubmitMany, tasks.SubmitManyAnswer, "Accept up to 1,000 tasks in one transaction"
    ),
    _client("tasks.get", tasks.GetTask, tasks.TaskDocument, "A task by id or key"),
    _client("tasks.list", tasks.ListTasks, tasks.TaskPage, "Tasks, newest first"),
    _client("tasks.wait", tasks.WaitTask, tasks.TaskDocument, "A task once it is final, or at the time-out"),
    _client("tasks.wait_many", tasks.WaitMany, tasks.WaitManyAnswer, "Those of many tasks that are final"),
    _client("tasks.why", why.AskWhy, why.Why, "Why a task waits, or why its agent was chosen"),
    _client("tasks.cancel", tasks.CancelTask, tasks.TaskChange, "Cancel a task"),
    _client("tasks.complete", tasks.CompleteTask, tasks.TaskChange, "Finish a task with a result"),
    _client("tasks.answer", tasks.AnswerTask, tasks.TaskChange, "Answer what a task's agent asks"),
    _client("tasks.retry", tasks.RetryTask, tasks.TaskChange, "Run a failed task again, as a new one"),
    _client("agents.list", agents.ListAgents, agents.AgentPage, "Agents, by id"),
    _client("agents.get", agents.GetAgent, agents.AgentDocument, "An agent"),
    _client("agents.spawn", agents.SpawnAgent, agents.SpawnAnswer, "Start an agent of a role"),
    _client("agents.drain", agents.AgentVerb, agents.AgentChange, "Give an agent nothing new"),
    _client("agents.resume", agents.AgentVerb, agents.AgentChange, "Give an agent tasks again"),
    _client("agents.shutdown", agents.AgentVerb, agents.AgentChange, "Stop an agent"),
    _client("pool.pause", pools.PoolVerb, pools.PoolChange, "Assign nothing, or nothing of a type"),
    _client("pool.resume", pools.PoolVerb, pools.PoolChange, "Assign again"),
    _agent("register", agents.Register, agents.RegisterAnswer, "An agent signs in"),
    _agent("heartbeat", agents.Heartbeat, agents.HeartbeatAnswer, "An agent lives, and lists what it runs"),
    _agent("complete", agents.Complete, agents.Recorded, "An agent reports a result"),
    _agent("fail", agents.Fail, agents.Recorded, "An agent reports a failure"),
    _agent("report_many", agents.ReportMany, agents.ReportManyAnswer, "An agent reports many results and failures"),
    _agent("query", agents.ReportQuery, agents.QueryRecorded, "An agent asks something and waits for the answer"),
    _agent("progress", agents.ReportProgress, None, "An agent reports progress"),
    _agent("leave", agents.Leave, Nothing, "An agent says goodbye"),
    _to_agent("assign", agents.Assign, agents.AssignAnswer, "An offer to an agent"),
    _to_agent("assign_many", agents.AssignMany, agents.AssignManyAnswer, "Many offers to an agent that takes batches"),
    _to_agent("answer", agents.GiveAnswer, Nothing, "The answer to a question"),
    _to_agent("cancel", agents.CancelAttempt, Nothing, "Stop an attempt"),
    _to_agent("drain", agents.Drain, Nothing, "Take nothing new"),
    _to_agent("shutdown", agents.Shutdown, Nothing, "Finish, leave, exit"),
    _event("event.task", "event.task.{state}.{task_id}", events.TaskChanged, "A committed change of a task"),
    _event("event.agent", "event.agent.{state}.{agent_id}", events.AgentChanged, "A committed change of an agent"),
    _event("event.owner", "event.owner", events.OwnerChanged, "Who owns the pool"),
)
"""In the order of the protocol's section 1."""
