"""The whole subject surface of a pool on one screen (protocol, section 1): who handles what."""

from collections.abc import Callable
from typing import Any

from callboard.bus.serve import Endpoint, Handle, answering
from callboard.orchestrator.agent_requests import AgentRequests
from callboard.orchestrator.fleet_requests import FleetRequests
from callboard.orchestrator.owner import PoolOwner
from callboard.orchestrator.task_requests import TaskRequests
from callboard.schemas import agents, tasks
from callboard.schemas.base import Nothing
from callboard.schemas.pools import PoolVerb
from callboard.schemas.status import SystemStatus
from callboard.schemas.why import AskWhy


def endpoints_of(
    owner: PoolOwner,
    task: TaskRequests,
    fleet: FleetRequests,
    agent: AgentRequests,
    status: Callable[[], SystemStatus],
) -> list[Endpoint[Any]]:
    """Every endpoint of the pool that `owner` owns."""
    at = owner.subjects

    def client(family: str, verb: str, request: type[Any], handle: Handle[Any], description: str) -> Endpoint[Any]:
        subject = at.tasks(verb) if family == "tasks" else at.agents(verb)
        return Endpoint(
            name=f"{family}_{verb}", subject=subject, request=request, handle=handle, description=description
        )

    def of_pool(verb: str, handle: Handle[Any], description: str) -> Endpoint[Any]:
        return Endpoint(
            name=f"pool_{verb}", subject=at.of_pool(verb), request=PoolVerb, handle=handle, description=description
        )

    def agents_own(verb: str, request: type[Any], handle: Handle[Any], description: str) -> Endpoint[Any]:
        return Endpoint(
            name=f"agent_{verb}",
            subject=at.from_agent("*", verb),
            request=request,
            handle=handle,
            description=description,
            expects_reply=verb != "progress",
        )

    def reading(handler: Any) -> Handle[Any]:  # noqa: ANN401 - handlers differ in what they take and answer
        return answering(handler, owner.spawn)

    return [
        Endpoint(
            name="status",
            subject=at.status,
            request=Nothing,
            handle=lambda _, request: request.answer(status()),
            description="The pool's state in one document",
        ),
        client("tasks", "submit", tasks.TaskSpec, task.submit, "Accept a task; answered after the commit"),
        client(
            "tasks", "submit_many", tasks.SubmitMany, task.submit_many, "Accept up to 1,000 tasks in one transaction"
        ),
        client("tasks", "get", tasks.GetTask, reading(task.get), "A task by id or key"),
        client("tasks", "list", tasks.ListTasks, reading(task.page), "Tasks, newest first"),
        client("tasks", "wait", tasks.WaitTask, task.wait, "A task once it is final, or at the time-out"),
        client("tasks", "wait_many", tasks.WaitMany, task.wait_many, "Those of many tasks that are final"),
        client("tasks", "why", AskWhy, reading(task.why), "Why a task waits, or why its agent was chosen"),
        client("tasks", "cancel", tasks.CancelTask, task.cancel, "Cancel a task"),
        client("tasks", "complete", tasks.CompleteTask, task.complete, "Finish a task with a result"),
        client("tasks", "answer", tasks.AnswerTask, task.answer, "Answer what a task's agent asks"),
        client("tasks", "retry", tasks.RetryTask, task.retry, "Run a failed task again, as a new one"),
        client("agents", "list", agents.ListAgents, fleet.page, "Agents, by id"),
        client("agents", "get", agents.GetAgent, fleet.get, "An agent"),
        client("agents", "spawn", agents.SpawnAgent, reading(fleet.spawn), "Start an agent of a role"),
        client("agents", "drain", agents.AgentVerb, fleet.drain, "Give an agent nothing new"),
        client("agents", "resume", agents.AgentVerb, fleet.resume, "Give an agent tasks again"),
        client("agents", "shutdown", agents.AgentVerb, fleet.shut_down, "Stop an agent"),
        of_pool("pause", fleet.pause, "Assign nothing, or nothing of a type"),
        of_pool("resume", fleet.unpause, "Assign again"),
        agents_own("register", agents.Register, agent.register, "An agent signs in"),
        agents_own("heartbeat", agents.Heartbeat, agent.heartbeat, "An agent lives, and lists what it runs"),
        agents_own("complete", agents.Complete, agent.complete, "An agent reports a result"),
        agents_own("fail", agents.Fail, agent.fail, "An agent reports a failure"),
        agents_own("report_many", agents.ReportMany, agent.report_many, "An agent reports many results and failures"),
        agents_own("query", agents.ReportQuery, agent.query, "An agent asks something and waits for the answer"),
        agents_own("progress", agents.ReportProgress, agent.progress, "An agent reports progress"),
        agents_own("leave", agents.Leave, agent.leave, "An agent says goodbye"),
    ]
