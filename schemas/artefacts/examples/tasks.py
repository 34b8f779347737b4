"""Examples of what clients ask about tasks (protocol, section 4)."""

from typing import Final

from msgspec import Raw

from artefacts.examples.common import AGENT_ID, AT, INCARNATION, LATER, OTHER_TASK_ID, TASK_ID
from artefacts.golden import ABSENT, Bad, Golden
from callboard.schemas import tasks as t
from callboard.schemas.base import Message
from callboard.schemas.errors import InvalidRequestError
from callboard.schemas.labels import LabelMatch, LabelOp, Preference
from callboard.schemas.vocabulary import OnUnsatisfiable, Outcome, TaskAssignmentStrategy, TaskPriority, TaskState
from callboard.schemas.why import AgentReason, AgentScore, AskWhy, Why

_SUBMITTED: Final = t.SubmitAnswer(task_id=TASK_ID, state=TaskState.QUEUED, created=True, satisfiable=True)
_SPEC: Final = t.TaskSpec(type="review", payload=Raw(b'{"file":"a.py"}'), key="review-a.py-1")
_TASK: Final = t.TaskDocument(
    task_id=TASK_ID,
    state=TaskState.SUCCEEDED,
    version=5,
    type="review",
    priority=TaskPriority.NORMAL,
    attempt=1,
    created_at=AT,
    updated_at=LATER,
    payload=Raw(b'{"file":"a.py"}'),
    key="review-a.py-1",
    agent_id=AGENT_ID,
    incarnation=INCARNATION,
    started_at=AT,
    finished_at=LATER,
    progress=t.Progress(percent=50, message="half-way"),
    result=Raw(b'{"lines":2}'),
    attempts=[t.AttemptRecord(attempt=1, agent_id=AGENT_ID, started_at=AT, ended_at=LATER, outcome=Outcome.SUCCEEDED)],
)
_WAITING: Final = t.TaskDocument(
    task_id=OTHER_TASK_ID,
    state=TaskState.DEFERRED,
    version=4,
    type="review",
    priority=TaskPriority.HIGH,
    attempt=1,
    created_at=AT,
    updated_at=LATER,
    payload=Raw(b"null"),
    reason="backoff",
    until=LATER,
    error=t.TaskError(type="quota", message="later", retryable=True, retry_after_ms=9000),
)
_BAD_ID: Final = Bad("not a task id", {"task_id": "task-1"}, "task_id")
_NO_ID: Final = Bad("which task is missing", {"task_id": ABSENT}, "task_id")
_CHANGED: Final[dict[str, Message]] = {
    "changed": t.TaskChange(task_id=TASK_ID, state=TaskState.CANCELLED, changed=True),
    "it was so already": t.TaskChange(task_id=TASK_ID, state=TaskState.CANCELLED, changed=False),
}

EXAMPLES: Final[dict[str, Golden]] = {
    "tasks.submit": Golden(
        good={
            "a payload and a key": _SPEC,
            "the type alone": t.TaskSpec(type="review"),
            "everything": t.TaskSpec(
                type="review",
                description="Read a.py",
                payload=Raw(b'[1,"\xc3\xbc",null,{"deep":[true]}]'),
                metadata={"team": "blue"},
                priority=TaskPriority.CRITICAL,
                key="review-a.py-2",
                requires=t.Requirements(
                    role="reviewer",
                    agent_id=AGENT_ID,
                    capabilities=["python"],
                    labels=[
                        LabelMatch(key="zone", op=LabelOp.IN, value=["a", "b"]),
                        LabelMatch(key="memory_gb", op=LabelOp.AT_LEAST, value=16),
                        LabelMatch(key="gpu", op=LabelOp.EXISTS),
                    ],
                ),
                prefers=[Preference(key="zone", op=LabelOp.EQUALS, value="a", weight=2)],
                affinity_key="repository-1",
                traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                strategy=TaskAssignmentStrategy.PERFORMANCE_BASED,
                max_attempts=5,
                backoff=t.Backoff(initial_ms=500, factor=3, max_ms=30_000),
                run_timeout_ms=60_000,
                progress_timeout_ms=10_000,
                deadline=LATER,
                not_before=AT,
                on_unsatisfiable=OnUnsatisfiable.REJECT,
            ),
            "durations instead of instants": t.TaskSpec(type="review", ttl_ms=60_000, delay_ms=1_000),
        },
        bad=[
            Bad("no type", {"type": ABSENT}, "type"),
            Bad("a type that is no name", {"type": "code review"}, "type"),
            Bad("an unknown field: a misspelt requirement must not widen placement", {"require": {}}, "require"),
            Bad("an unknown field within", {"requires": {"capabilites": ["python"]}}, "requires.capabilites"),
            Bad("an unknown priority", {"priority": "urgent"}, "priority"),
            Bad("an empty key", {"key": ""}, "key"),
            Bad("no attempt at all", {"max_attempts": 0}, "max_attempts"),
            Bad("a duration that is text", {"run_timeout_ms": "60s"}, "run_timeout_ms"),
            Bad("metadata that is not text", {"metadata": {"team": 1}}, "metadata[...]"),
            Bad("an instant without a zone", {"deadline": "2026-01-02T03:04:05"}, "deadline"),
            Bad("an instant and a duration", {"deadline": "2026-01-02T03:04:05Z", "ttl_ms": 1}, ""),
            Bad(
                "a list for a single value",
                {"requires": {"labels": [{"key": "zone", "op": "=", "value": ["a"]}]}},
                "requires.labels[0]",
            ),
            Bad(
                "an ordering of text",
                {"prefers": [{"key": "zone", "op": ">", "value": "a", "weight": 1}]},
                "prefers[0]",
            ),
        ],
        answers={
            "a new task": _SUBMITTED,
            "the same key again": t.SubmitAnswer(
                task_id=TASK_ID, state=TaskState.RUNNING, created=False, satisfiable=True
            ),
        },
    ),
    "tasks.submit_many": Golden(
        good={"two": t.SubmitMany(tasks=[Raw(b'{"type":"review","key":"a"}'), Raw(b'{"type":"review","key":"b"}')])},
        bad=[
            Bad("none", {"tasks": []}, "tasks"),
            Bad("not a list", {"tasks": {"type": "review"}}, "tasks"),
            Bad("a specification alone", {"tasks": ABSENT, "type": "review"}, "tasks"),
        ],
        answers={
            "one taken, one refused": t.SubmitManyAnswer(
                results=[
                    t.SubmitResult(task_id=TASK_ID, state=TaskState.QUEUED, created=True, satisfiable=True),
                    t.SubmitResult(error=InvalidRequestError("type: expected a name", path="type").body()),
                ]
            )
        },
    ),
    "tasks.get": Golden(
        good={"by id": t.GetTask(task_id=TASK_ID), "by key": t.GetTask(key="review-a.py-1")},
        bad=[
            _BAD_ID,
            Bad("neither id nor key", {"task_id": ABSENT}, ""),
            Bad("both", {"key": "review-a.py-1"}, ""),
        ],
        answers={"succeeded": _TASK, "waits for its back-off": _WAITING},
    ),
    "tasks.list": Golden(
        good={
            "all": t.ListTasks(),
            "some": t.ListTasks(state=TaskState.FAILED, type="review", agent_id=AGENT_ID, limit=20),
        },
        bad=[
            Bad("an unknown state", {"state": "done"}, "state"),
            Bad("too many", {"limit": 501}, "limit"),
            Bad("none", {"limit": 0}, "limit"),
        ],
        answers={"the last page": t.TaskPage(tasks=[_WAITING]), "nothing": t.TaskPage(tasks=[])},
    ),
    "tasks.wait": Golden(
        good={"ten seconds": t.WaitTask(task_id=TASK_ID, timeout_ms=10_000)},
        bad=[
            _BAD_ID,
            _NO_ID,
            Bad("no time-out", {"timeout_ms": ABSENT}, "timeout_ms"),
            Bad("longer than a minute", {"timeout_ms": 60_001}, "timeout_ms"),
        ],
        answers={"final": _TASK, "as it stands at the time-out": _WAITING},
    ),
    "tasks.wait_many": Golden(
        good={"one of two": t.WaitMany(task_ids=[TASK_ID, OTHER_TASK_ID], timeout_ms=10_000)},
        bad=[
            Bad("no tasks", {"task_ids": []}, "task_ids"),
            Bad("an id that is none", {"task_ids": ["7"]}, "task_ids[0]"),
            Bad("no time-out", {"timeout_ms": ABSENT}, "timeout_ms"),
            Bad("longer than a minute", {"timeout_ms": 60_001}, "timeout_ms"),
        ],
        answers={
            "one is final": t.WaitManyAnswer(tasks=[_TASK], unknown=[]),
            "none at the time-out": t.WaitManyAnswer(tasks=[], unknown=[]),
            "one that is none": t.WaitManyAnswer(tasks=[], unknown=[TASK_ID]),
        },
    ),
    "tasks.why": Golden(
        good={"a task": AskWhy(task_id=TASK_ID), "a dry run": AskWhy(task=_SPEC)},
        bad=[
            _BAD_ID,
            Bad("neither", {"task_id": ABSENT}, ""),
            Bad("both", {"task": {"type": "review"}}, ""),
            Bad("a dry run of a bad task", {"task_id": ABSENT, "task": {"type": "code review"}}, "task.type"),
        ],
        answers={
            "it waits": Why(
                state=TaskState.QUEUED,
                position=1,
                candidates=2,
                excluded={"no_slot": 1, "draining": 1},
                agents=[AgentReason(agent_id=AGENT_ID, reason="no_slot")],
                unblocked_by=["a slot of reviewer-1"],
            ),
            "it was placed": Why(
                state=TaskState.RUNNING,
                scores=[AgentScore(agent_id=AGENT_ID, total=1.5, parts={"load": 1.0, "affinity": 0.5})],
            ),
        },
    ),
    "tasks.cancel": Golden(
        good={"with a reason": t.CancelTask(task_id=TASK_ID, reason="obsolete")},
        bad=[_BAD_ID, _NO_ID, Bad("a reason that is no text", {"reason": 1}, "reason")],
        answers=_CHANGED,
    ),
    "tasks.complete": Golden(
        good={
            "a result": t.CompleteTask(task_id=TASK_ID, result=Raw(b'{"lines":2}')),
            "without one": t.CompleteTask(task_id=TASK_ID),
        },
        bad=[_BAD_ID, _NO_ID],
        answers={"finished": t.TaskChange(task_id=TASK_ID, state=TaskState.SUCCEEDED, changed=True)},
    ),
    "tasks.answer": Golden(
        good={
            "to a certain question": t.AnswerTask(task_id=TASK_ID, attempt=1, query=2, answer=Raw(b'"yes"')),
            "to the open one": t.AnswerTask(task_id=TASK_ID, answer=Raw(b'{"choice":"a"}')),
        },
        bad=[_BAD_ID, _NO_ID, Bad("a question before the first", {"query": 0}, "query")],
        answers={
            "it goes on": t.TaskChange(task_id=TASK_ID, state=TaskState.RUNNING, changed=True),
            "answered before": t.TaskChange(task_id=TASK_ID, state=TaskState.RUNNING, changed=False),
        },
    ),
    "tasks.retry": Golden(
        good={"a failed task": t.RetryTask(task_id=TASK_ID)},
        bad=[_BAD_ID, _NO_ID],
        answers={"the new one": t.TaskChange(task_id=OTHER_TASK_ID, state=TaskState.QUEUED, changed=True)},
    ),
}
