"""Examples of what agents and the orchestrator say to each other, and of events (protocol, section 3)."""

from typing import Final

from msgspec import Raw

from artefacts.examples.common import AGENT_ID, AT, HELD, INCARNATION, LATER, TASK_ID
from artefacts.golden import ABSENT, Bad, Golden
from callboard.schemas import agents as a
from callboard.schemas.base import Message, Nothing
from callboard.schemas.errors import StaleAttemptError
from callboard.schemas.events import AgentChanged, OwnerChanged, TaskChanged
from callboard.schemas.status import OwnerEvent
from callboard.schemas.tasks import Progress, TaskError, TaskEvent
from callboard.schemas.vocabulary import AgentState, DatabaseHealth, Outcome, TaskPriority, TaskState

_NO_INCARNATION: Final = Bad("who says it is missing", {"incarnation": ABSENT}, "incarnation")
_BAD_INCARNATION: Final = Bad("an incarnation that is no UUID", {"incarnation": "one"}, "incarnation")
_BAD_ATTEMPT: Final = Bad("attempts count from 1", {"attempt": 0}, "attempt")
_NO_ATTEMPT: Final = Bad("an attempt without its number", {"attempt": ABSENT}, "attempt")
_BAD_EPOCH: Final = Bad("a negative epoch", {"epoch": -1}, "epoch")
_OF_ATTEMPT: Final = [_NO_INCARNATION, _BAD_INCARNATION, _NO_ATTEMPT, _BAD_ATTEMPT]
_UNDERSTOOD: Final[dict[str, Message]] = {"understood": Nothing()}

EXAMPLES: Final[dict[str, Golden]] = {
    "agent.register": Golden(
        good={
            "everything": a.Register(
                incarnation=INCARNATION,
                role="reviewer",
                capabilities=["python"],
                labels={"zone": "a", "memory_gb": 16, "load": 0.5, "gpu": False},
                slots=4,
                version="1.2",
                metadata={"host": "n1"},
                running=[HELD],
                draining=False,
            ),
            "the least": a.Register(incarnation=INCARNATION),
        },
        bad=[
            _NO_INCARNATION,
            _BAD_INCARNATION,
            Bad("no slot", {"slots": 0}, "slots"),
            Bad("a capability that is no name", {"capabilities": ["py thon"]}, "capabilities[0]"),
            Bad("a label that is a list", {"labels": {"zone": ["a"]}}, "labels[...]"),
            Bad("an attempt without its number", {"running": [{"task_id": TASK_ID}]}, "running[0].attempt"),
        ],
        answers={
            "welcome": a.RegisterAnswer(
                agent_id=AGENT_ID,
                pool="default",
                epoch=3,
                heartbeat_interval_ms=5000,
                lease_ms=15_000,
                cancel=[],
                drain=False,
                server_time=AT,
            )
        },
    ),
    "agent.heartbeat": Golden(
        good={
            "at work": a.Heartbeat(incarnation=INCARNATION, seq=7, running=[HELD]),
            "idle and draining": a.Heartbeat(incarnation=INCARNATION, seq=8, running=[], draining=True),
        },
        bad=[
            _NO_INCARNATION,
            Bad("no list of what runs", {"running": ABSENT}, "running"),
            Bad("a sequence that is text", {"seq": "7"}, "seq"),
        ],
        answers={
            "drop that attempt": a.HeartbeatAnswer(
                epoch=3,
                heartbeat_interval_ms=5000,
                lease_ms=15_000,
                cancel=[HELD],
                drain=False,
                database=DatabaseHealth.OK,
            )
        },
    ),
    "agent.complete": Golden(
        good={
            "a result": a.Complete(task_id=TASK_ID, attempt=1, incarnation=INCARNATION, result=Raw(b'{"lines":2}')),
            "none": a.Complete(task_id=TASK_ID, attempt=1, incarnation=INCARNATION),
        },
        bad=_OF_ATTEMPT,
        answers={"committed": a.Recorded(recorded=True)},
    ),
    "agent.fail": Golden(
        good={
            "try later": a.Fail(
                task_id=TASK_ID,
                attempt=1,
                incarnation=INCARNATION,
                error=TaskError(type="quota", message="later", retryable=True, retry_after_ms=9000),
            ),
            "for good": a.Fail(
                task_id=TASK_ID, attempt=1, incarnation=INCARNATION, error=TaskError(message="no", retryable=False)
            ),
        },
        bad=[
            *_OF_ATTEMPT,
            Bad("an error without a message", {"error": {"type": "quota"}}, "error.message"),
            Bad("an error that is text", {"error": "later"}, "error"),
        ],
        answers={
            "tried again later": a.Recorded(recorded=True, state=TaskState.DEFERRED, until=LATER),
            "that was the last attempt": a.Recorded(recorded=True, state=TaskState.FAILED),
        },
    ),
    "agent.report_many": Golden(
        good={
            "a result and a failure": a.ReportMany(
                incarnation=INCARNATION,
                reports=[
                    a.Report(task_id=TASK_ID, attempt=1, result=Raw(b'{"lines":2}')),
                    a.Report(task_id=TASK_ID, attempt=2, error=TaskError(message="no")),
                ],
            ),
        },
        bad=[
            Bad("no incarnation", {"incarnation": ABSENT}, "incarnation"),
            Bad("no reports", {"reports": []}, "reports"),
            Bad("a report without an attempt", {"reports": [{"task_id": TASK_ID}]}, "reports[0].attempt"),
        ],
        answers={
            "each for itself": a.ReportManyAnswer(
                answers=[
                    a.Reported(recorded=True),
                    a.Reported(error=StaleAttemptError("attempt 2 is over").body()),
                ]
            ),
        },
    ),
    "agent.progress": Golden(
        good={
            "everything": a.ReportProgress(
                task_id=TASK_ID,
                attempt=1,
                incarnation=INCARNATION,
                percent=50,
                message="half-way",
                data=Raw(b'{"files":2}'),
            ),
            "still there": a.ReportProgress(task_id=TASK_ID, attempt=1, incarnation=INCARNATION),
        },
        bad=[*_OF_ATTEMPT, Bad("more than all", {"percent": 101}, "percent")],
    ),
    "agent.query": Golden(
        good={
            "a choice": a.ReportQuery(
                task_id=TASK_ID,
                attempt=1,
                incarnation=INCARNATION,
                query=1,
                prompt="Delete 200 files?",
                data=Raw(b'["yes","no"]'),
            ),
            "the least": a.ReportQuery(
                task_id=TASK_ID, attempt=1, incarnation=INCARNATION, query=2, prompt="Which branch?"
            ),
        },
        bad=[
            *_OF_ATTEMPT,
            Bad("no prompt", {"prompt": ABSENT}, "prompt"),
            Bad("no number", {"query": ABSENT}, "query"),
            Bad("a number before the first", {"query": 0}, "query"),
        ],
        answers={"committed": a.QueryRecorded(recorded=True)},
    ),
    "agent.leave": Golden(
        good={"goodbye": a.Leave(incarnation=INCARNATION, reason="shut down")},
        bad=[_NO_INCARNATION, _BAD_INCARNATION],
        answers={"goodbye": Nothing()},
    ),
    "to.assign": Golden(
        good={
            "everything": a.Assign(
                epoch=3,
                task_id=TASK_ID,
                attempt=2,
                type="review",
                payload=Raw(b'{"file":"a.py"}'),
                priority=TaskPriority.HIGH,
                metadata={"team": "blue"},
                description="Read a.py",
                remaining_ms=60_000,
                run_timeout_ms=10_000,
                progress=Progress(percent=50, message="half-way", data=Raw(b"null")),
            ),
            "the least": a.Assign(
                epoch=3, task_id=TASK_ID, attempt=1, type="review", priority=TaskPriority.NORMAL, metadata={}
            ),
        },
        bad=[_BAD_EPOCH, _NO_ATTEMPT, _BAD_ATTEMPT, Bad("no type", {"type": ABSENT}, "type")],
        answers={
            "accepted": a.AssignAnswer(accepted=True),
            "busy": a.AssignAnswer(accepted=False, reason="busy", retry_after_ms=2000),
            "never": a.AssignAnswer(accepted=False, reason="unsupported"),
        },
    ),
    "to.answer": Golden(
        good={
            "text": a.GiveAnswer(epoch=3, task_id=TASK_ID, attempt=1, query=1, answer=Raw(b'"yes"')),
            "nothing": a.GiveAnswer(epoch=3, task_id=TASK_ID, attempt=1, query=1),
        },
        bad=[_BAD_EPOCH, _NO_ATTEMPT, _BAD_ATTEMPT, Bad("no number", {"query": ABSENT}, "query")],
        answers={"acknowledged": Nothing()},
    ),
    "to.assign_many": Golden(
        good={
            "two offers": a.AssignMany(
                epoch=3,
                offers=[
                    a.Assign(
                        epoch=3, task_id=TASK_ID, attempt=n, type="review", priority=TaskPriority.NORMAL, metadata={}
                    )
                    for n in (1, 2)
                ],
            ),
        },
        bad=[_BAD_EPOCH, Bad("no offers", {"offers": []}, "offers")],
        answers={
            "one of two": a.AssignManyAnswer(
                answers=[
                    a.AssignAnswer(accepted=True),
                    a.AssignAnswer(accepted=False, reason="busy", retry_after_ms=2000),
                ]
            ),
        },
    ),
    "to.cancel": Golden(
        good={"an attempt": a.CancelAttempt(epoch=3, task_id=TASK_ID, attempt=1, reason="cancelled")},
        bad=[_BAD_EPOCH, _NO_ATTEMPT, _BAD_ATTEMPT],
        answers=_UNDERSTOOD,
    ),
    "to.drain": Golden(good={"take nothing new": a.Drain(epoch=3)}, bad=[_BAD_EPOCH], answers=_UNDERSTOOD),
    "to.shutdown": Golden(
        good={"within ten seconds": a.Shutdown(epoch=3, grace_ms=10_000, reason="maintenance")},
        bad=[_BAD_EPOCH, Bad("no time given", {"grace_ms": ABSENT}, "grace_ms")],
        answers=_UNDERSTOOD,
    ),
    "event.task": Golden(
        good={
            "it failed and is tried again": TaskChanged(
                specversion="1.0",
                id=f"{TASK_ID}-4",
                source="/callboard/default",
                type="callboard.task.deferred",
                subject=TASK_ID,
                time=LATER,
                datacontenttype="application/json",
                data=TaskEvent(
                    task_id=TASK_ID,
                    pool="default",
                    type="review",
                    state=TaskState.DEFERRED,
                    version=4,
                    attempt=1,
                    at=LATER,
                    agent_id=AGENT_ID,
                    incarnation=INCARNATION,
                    reason="backoff",
                    until=LATER,
                    error=TaskError(message="later"),
                    outcome=Outcome.FAILED,
                ),
            )
        },
        bad=[
            Bad("a state that there is not", {"data.state": "done"}, "data.state"),
            Bad("another specification", {"specversion": "0.3"}, "specversion"),
        ],
    ),
    "event.agent": Golden(
        good={
            "online": AgentChanged(
                specversion="1.0",
                id=f"default-{AGENT_ID}-3-17-0",
                source="/callboard/default",
                type="callboard.agent.online",
                subject=AGENT_ID,
                time=AT,
                datacontenttype="application/json",
                data=a.AgentEvent(
                    agent_id=AGENT_ID,
                    pool="default",
                    state=AgentState.ONLINE,
                    revision="3-17-0",
                    at=AT,
                    incarnation=INCARNATION,
                ),
            )
        },
        bad=[Bad("a state that there is not", {"data.state": "alive"}, "data.state")],
    ),
    "event.owner": Golden(
        good={
            "a new owner": OwnerChanged(
                specversion="1.0",
                id="default-3",
                source="/callboard/default",
                type="callboard.pool.owned",
                subject="default",
                time=AT,
                datacontenttype="application/json",
                data=OwnerEvent(pool="default", replica="n1-1", epoch=3, at=AT),
            )
        },
        bad=[Bad("no epoch", {"data.epoch": ABSENT}, "data.epoch")],
    ),
}
