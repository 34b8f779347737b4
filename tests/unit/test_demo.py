from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from callboard.demo.check import find_faults, find_miscounts
from callboard.demo.fleet import FLEET, VICTIM
from callboard.demo.jobs import LARGE, LARGE_BYTES, TOP_LEVEL, Job, Kind, find_modules, make_jobs
from callboard.demo.report import agent_rows, history, package_rows
from callboard.demo.work import Text, checksum, measure_syntax, measure_text
from callboard.schemas.errors import ConfigurationError
from callboard.schemas.status import AgentCounts, Health, Latency, Owner, Performance, SystemStatus
from callboard.schemas.tasks import AttemptRecord, TaskCounts, TaskDocument, TaskError
from callboard.schemas.vocabulary import (
    DatabaseHealth,
    Durability,
    Outcome,
    TaskAssignmentStrategy,
    TaskPriority,
    TaskState,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SOURCE = b'''# coding: latin-1
class A:
    """\xe9t\xe9\x0c"""
    def f(self):
        if 1:
            pass
        elif 2:
            pass
        else:
            try:
                pass
            except ValueError:
                return lambda: None
    async def g(self): pass
'''


def job(name: str, kind: Kind = Kind.TEXT) -> Job:
    files = (Path(f"{name}.py"),)
    return Job(kind=kind, name=name, package="p", files=files, priority=TaskPriority.LOW, capability=kind)


def document(result: object, *attempts: tuple[str, Outcome], state: TaskState = TaskState.SUCCEEDED) -> TaskDocument:
    return TaskDocument(
        task_id="t",
        state=state,
        version=1,
        type="text",
        priority=TaskPriority.LOW,
        attempt=len(attempts),
        created_at=NOW,
        updated_at=NOW,
        agent_id=attempts[-1][0] if attempts else None,
        result=msgspec.Raw(msgspec.json.encode(result)),
        error=None if state is TaskState.SUCCEEDED else TaskError(message="out of ink"),
        attempts=[
            AttemptRecord(attempt=number, agent_id=agent_id, started_at=NOW, outcome=outcome)
            for number, (agent_id, outcome) in enumerate(attempts, 1)
        ],
    )


def status(succeeded: int) -> SystemStatus:
    none = Latency(count=0)
    return SystemStatus(
        pool="default",
        mode="test",
        version="1",
        started_at=NOW,
        uptime_ms=1,
        owner=Owner(replica="r", epoch=1, since=NOW),
        durability=Durability.FSYNC,
        health=Health(database=DatabaseHealth.OK, bus="ok", degraded=False),
        agents=AgentCounts(total=0, by_state={}, slots=0, slots_used=0),
        tasks=TaskCounts(by_state={TaskState.SUCCEEDED: succeeded}),
        performance=Performance(
            submit=none, dispatch=none, run=none, end_to_end=none, commit=none, success_rate=1, tasks_per_minute=1
        ),
        strategy=TaskAssignmentStrategy.ROUND_ROBIN,
        paused=False,
    )


def test_text_counts_lines_as_python_does_and_characters_not_bytes() -> None:
    assert measure_text(SOURCE) == {"lines": 14, "longest": len("            except ValueError:") + 5}
    assert measure_text("\ufeffé = 1\n".encode()) == {"lines": 1, "longest": 5}
    assert measure_text(b"") == {"lines": 0, "longest": 0}


def test_syntax_counts_what_the_tree_holds_and_an_elif_is_no_deeper_than_its_if() -> None:
    assert measure_syntax(SOURCE) == {"code": 14, "functions": 2, "classes": 1, "nesting": 4}
    assert measure_syntax(b"if 1: pass\nelif 2: pass\nelif 3: pass\n")["nesting"] == 1
    assert measure_syntax(b"match 1:\n case 1:\n  if 2: pass\n")["nesting"] == 2
    assert measure_syntax(b"") == {"code": 0, "functions": 0, "classes": 0, "nesting": 0}


def test_every_module_makes_two_tasks_and_every_package_one() -> None:
    modules = find_modules()
    by_name = {module.name: module for module in modules}
    assert len(by_name) == len(modules) > 300
    assert not {"test", "site-packages"} & {name.partition(".")[0] for name in by_name}
    assert by_name["json"].package == by_name["json.decoder"].package == "json"
    assert by_name["inspect"].package == TOP_LEVEL

    jobs = make_jobs(modules)
    assert len(jobs) == len(set(jobs)) == 2 * len(modules) + len({module.package for module in modules})
    assert {job.priority for job in jobs} == set(TaskPriority)
    offered = {capability for member in FLEET if member.agent_id != VICTIM for capability in member.capabilities}
    assert {job.capability for job in jobs} <= offered, "without the victim nobody could do it all"
    assert all(job.files[0].stat().st_size >= LARGE_BYTES for job in jobs if job.capability == LARGE)
    checksums = [job for job in jobs if job.kind is Kind.CHECKSUM and job.name == "json"]
    assert [job.measure() for job in checksums] == [checksum(file.read_bytes() for file in checksums[0].files)]


def test_a_number_of_modules_takes_the_largest() -> None:
    sizes = [module.size for module in find_modules()]
    assert [module.size for module in find_modules(3)] == sorted(sizes, reverse=True)[:3]
    with pytest.raises(ConfigurationError, match="--modules must be at least 1, not 0"):
        find_modules(0)


def test_a_task_that_is_missing_failed_or_wrong_is_a_fault() -> None:
    right, wrong, failed, missing = map(job, ("right", "wrong", "failed", "missing"))
    expected = {one: Text(lines=1, longest=2) for one in (right, wrong, failed, missing)}
    finished = {
        right: document({"lines": 1, "longest": 2}, ("a", Outcome.SUCCEEDED)),
        wrong: document({"lines": 1, "longest": 3}, ("a", Outcome.SUCCEEDED)),
        failed: document(None, ("a", Outcome.FAILED), state=TaskState.FAILED),
    }
    assert find_faults(finished, expected) == [
        "text of wrong: a gave {'lines': 1, 'longest': 3}, a sequential run gives {'lines': 1, 'longest': 2}",
        "text of failed: failed: out of ink",
        "text of missing: there is no such task",
    ]


def test_counts_must_agree_and_the_killed_agent_must_have_lost_something() -> None:
    moved = document({}, ("b", Outcome.CRASHED), ("a", Outcome.SUCCEEDED))
    plain = document({}, ("a", Outcome.SUCCEEDED))
    finished = {job("moved"): moved, job("plain"): plain}
    assert find_miscounts(finished, "b", status(2)) == []
    assert len(find_miscounts(finished, "b", status(3))) == 1
    assert len(find_miscounts(finished, "a", status(2))) == 1
    assert history(moved) == "b crashed, then a succeeded"


def test_rows_add_up_what_tasks_gave_and_how_attempts_ended() -> None:
    results = {
        job("x"): {"lines": 1, "longest": 20},
        job("y"): {"lines": 2, "longest": 10},
        job("x", Kind.SYNTAX): {"code": 3, "functions": 1, "classes": 0, "nesting": 4},
        job("y", Kind.SYNTAX): {"code": 4, "functions": 1, "classes": 1, "nesting": 2},
        job("p", Kind.CHECKSUM): "abc",
    }
    (row,) = package_rows(results)
    assert (row.name, row.files, row.lines, row.longest, row.checksum) == ("p", 2, 3, 20, "abc")
    assert (row.code, row.functions, row.classes, row.nesting) == (7, 2, 1, 4)

    tasks = [
        document({}, (VICTIM, Outcome.CRASHED), ("parser", Outcome.FAILED), ("parser", Outcome.SUCCEEDED)),
        document({}, (VICTIM, Outcome.UNDELIVERED), ("reader", Outcome.TIMED_OUT), ("reader", Outcome.SUCCEEDED)),
    ]
    rows = {row.agent_id: (row.succeeded, row.failed, row.lost, row.other) for row in agent_rows(tasks, FLEET)}
    assert rows["parser"] == rows["reader"] == (1, 1, 0, 0)
    assert rows[VICTIM] == (0, 0, 1, 1)
    assert rows["command"] == (0, 0, 0, 0)
