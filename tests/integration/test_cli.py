"""The command line as scripts see it: exit statuses, standard output and standard error of real processes."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import socket
from typing import TYPE_CHECKING

import pytest
from tests.support.command_line import CommandLine, Finished, assert_one_line_of_error
from tests.support.scripted_orchestrator import SILENCE, TASK_ID, ScriptedOrchestrator, task

from callboard.bus.embedded import EmbeddedNats
from callboard.schemas.errors import (
    ConfigurationError,
    InvalidRequestError,
    InvalidTransitionError,
    KeyConflictError,
    OrchestratorError,
    ResourceLimitError,
    TaskNotFoundError,
    UnavailableError,
)

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio

SUBMITTED = {"task_id": TASK_ID, "state": "queued", "created": True, "satisfiable": True}
AGENT = {
    "agent_id": "reviewer-1",
    "state": "online",
    "role": "reviewer",
    "capabilities": ["python", "lint"],
    "labels": {"gpu": True},
    "slots": 4,
    "slots_used": 1,
    "incarnation": None,
    "version": None,
    "last_seen_at": "2026-01-02T03:04:05Z",
    "tasks": [{"task_id": TASK_ID, "attempt": 2}],
    "success_rate": 0.9,
}
LATENCY = {"count": 3, "p50_ms": 1.25, "p95_ms": 2.0, "p99_ms": 3.0}
STATUS = {
    "pool": "default",
    "mode": "development",
    "version": "0.1.0",
    "started_at": "2026-01-02T03:04:05Z",
    "uptime_ms": 3_700_000,
    "owner": {"replica": "r1", "epoch": 7, "since": "2026-01-02T03:04:05Z"},
    "durability": "fsync",
    "health": {"database": "ok", "bus": "ok", "degraded": False},
    "agents": {"total": 2, "by_state": {"online": 2}, "slots": 8, "slots_used": 1},
    "tasks": {
        "by_state": {"queued": 5, "succeeded": 12, "running": 1, "failed": 3},
        "oldest_queued_ms": 1500,
    },
    "performance": {
        **dict.fromkeys(("submit", "dispatch", "run", "end_to_end"), LATENCY),
        "commit": {"count": 0},
        "success_rate": 0.5,
        "tasks_per_minute": 60,
    },
    "strategy": "round_robin",
    "paused": False,
}


async def test_submit_prints_the_id_and_nothing_else(
    orchestrator: ScriptedOrchestrator, callboard: CommandLine
) -> None:
    orchestrator.on("tasks.submit", SUBMITTED)
    arguments = (
        "--priority high --capability python --capability lint --role reviewer --agent a --key k --description text"
        " --metadata run=1 --metadata note=a=b --delay 500ms --ttl 1h30m --run-timeout 10s --progress-timeout 5s"
        " --max-attempts 2 --strategy capability_match"
    )
    done = await callboard("submit", "review", '{"file": "a.py"}', *arguments.split())
    assert done == Finished(0, f"{TASK_ID}\n", "")
    assert orchestrator.requests["tasks.submit"] == [
        {
            "type": "review",
            "payload": {"file": "a.py"},
            "priority": "high",
            "requires": {"role": "reviewer", "agent_id": "a", "capabilities": ["python", "lint"]},
            "key": "k",
            "description": "text",
            "metadata": {"run": "1", "note": "a=b"},
            "delay_ms": 500,
            "ttl_ms": 5_400_000,
            "run_timeout_ms": 10_000,
            "progress_timeout_ms": 5_000,
            "max_attempts": 2,
            "strategy": "capability_match",
        }
    ]


async def test_the_payload_may_come_from_a_file_standard_input_or_plain_text(
    orchestrator: ScriptedOrchestrator, callboard: CommandLine
) -> None:
    orchestrator.on("tasks.submit", SUBMITTED)
    (callboard.home / "payload.json").write_text('{"from": "file"}\n')
    assert (await callboard("submit", "t", "--file", "payload.json")).status == 0
    assert (await callboard("submit", "t", "-", stdin=b'{"from": "stdin"}')).status == 0
    assert (await callboard("submit", "t", "not JSON", "--text")).status == 0
    assert (await callboard("submit", "t", "-1")).status == 0
    assert (await callboard("submit", "t", "-", "--text", stdin=b"two\nlines")).status == 0
    assert (await callboard("submit", "t")).status == 0
    payloads = [sent.get("payload") for sent in orchestrator.requests["tasks.submit"]]
    assert payloads == [{"from": "file"}, {"from": "stdin"}, "not JSON", -1, "two\nlines", None]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["submit", "t", "{a"], ["the payload is not JSON", "'{a'", "--text"]),
        (["submit", "t", "--file", "absent"], ["--file absent", "No such file"]),
        (["submit", "t", "1", "--file", "x"], ["not both"]),
        (["submit", "t", "--delay", "5"], ["--delay", "'5' is not a duration", "500ms"]),
        (["submit", "t", "--priority", "urgent"], ["--priority", '"urgent"', '"critical"', "submit --help"]),
        (["submit", "t", "--metadata", "x"], ["--metadata", "'x'", "name=value"]),
        (["submit"], ["TYPE"]),
        (["sumbit", "t"], ['"sumbit"', '"submit"']),
        (["get"], ["--key"]),
        (["get", "nonsense"], ['"nonsense"', "A task id is expected", TASK_ID, "callboard list", "--key"]),
        (["answer", TASK_ID.upper(), "yes"], [f'"{TASK_ID.upper()}"', "A task id is expected", "lower case"]),
        *(([verb, ""], ['""', "A task id is expected"]) for verb in ("get", "wait", "why", "cancel", "retry")),
        (["get", TASK_ID, "--pool", "A.b"], ["--pool", "'A.b'"]),
        (["list", "--prefix", "a.b*"], ["--prefix", "'a.b*'", "1 to 64"]),
        (["list", "--prefix", ""], ["--prefix", "''", "1 to 64"]),
        (["agent", "exec", "--prefix", "a.b*", "--", "ls"], ["--prefix", "'a.b*'", "1 to 64"]),
        (["gateway", "--owner", "me", "--prefix", "a.b*"], ["--prefix", "'a.b*'", "1 to 64"]),
        (["gateway", "--owner", "me", "--pool", "A.b"], ["--pool", "'A.b'", "at most 32"]),
        (["get", TASK_ID, "--nats-url", "http://x"], ["not a NATS server", "http://x"]),
        (["get", TASK_ID, "--nats-url", "x", "--context", "y"], ["--nats-url", "--context"]),
        (["agent", "exec", "--capability", "lint"], ["after --"]),
        (["list", "--limit", "many"], ["--limit", '"many"']),
        (["config", "--mode", "prod"], ["mode", "'prod'", "development, staging, production, test"]),
        (["config", "--config", "absent.toml"], ["absent.toml", "No such file"]),
        (["list", "--data-dir", ""], ["--data-dir", "must not be empty"]),
        (["list", "--nats-url", ""], ["--nats-url", "must not be empty"]),
        (["submit", "t", "--key", ""], ["--key", "must not be empty"]),
        (["get", "--key", ""], ["--key", "must not be empty"]),
        (["dev", "--nats-port", "70000"], ["--nats-port", "70000", "between 0 and 65535"]),
        (["dev", "--http-port", "-1"], ["--http-port", "-1", "between 0 and 65535"]),
        (["submit", "t", "--within", "3s"], ["--within", "--wait"]),
        (["submit", "t", "--priorty", "high"], ["unknown option '--priorty'"]),
        (["submit", "t", "--wiat", "--text"], ["unknown option '--wiat'"]),
        (["agent", "exec", "--capabilty", "x", "--", "cat"], ["unknown option '--capabilty'", "after --"]),
        (["submit", "t", "--ttl", "-5s"], ["--ttl", "'-5s'", "must not be negative"]),
        (["submit", "t", "--delay", "400000d"], ["--delay", "'400000d'", "at most 3650d"]),
        (["list", "--timeout", "-1s"], ["--timeout", "'-1s'", "must not be negative"]),
        (["submit", "t", "--max-attempts", "0"], ["--max-attempts", '"0"', "between 1 and 1000"]),
        (["list", "--limit", "0"], ["--limit", '"0"', "between 1 and 500"]),
        (["agents", "--limit", "501"], ["--limit", '"501"', "between 1 and 500"]),
        (
            ["events", "--type", "tsak"],
            ["--type 'tsak'", "task, agent, pool", "task.failed", "agent.online", "pool.owned"],
        ),
        (["events", "--type", "task.*"], ["--type 'task.*'", "task.waiting_input"]),
        (["events", "--type", "task."], ["--type 'task.'", "task.queued"]),
        (["events", "--type", "callboard."], ["--type 'callboard.'", "task.queued"]),
        (["spawn", "tester", "--slots", "0"], ["--slots", '"0"', "between 1 and 10000"]),
    ],
)
async def test_a_mistake_on_the_command_line_is_one_line_and_status_2(
    callboard: CommandLine, arguments: list[str], words: list[str]
) -> None:
    assert_one_line_of_error(await callboard(*arguments), 2, *words)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (TaskNotFoundError("no task of this id"), 3),
        (KeyConflictError("key 'k' is another's"), 3),
        (InvalidRequestError("type: bad\nname"), 3),
        (ConfigurationError("unknown role"), 2),
        (ResourceLimitError("the queue is full", retry_after_ms=60_000), 4),
        (UnavailableError("the database is away", retry_after_ms=60_000), 4),
    ],
)
async def test_a_refusal_is_one_line_and_its_status(
    orchestrator: ScriptedOrchestrator, callboard: CommandLine, error: OrchestratorError, status: int
) -> None:
    orchestrator.on("tasks.submit", error)
    assert_one_line_of_error(await callboard("submit", "t"), status, " ".join(error.message.split()))


async def test_without_an_orchestrator_it_says_so_and_ends_with_4(callboard: CommandLine) -> None:
    done = await callboard("get", TASK_ID, "--timeout", "300ms")
    assert_one_line_of_error(done, 4, "no orchestrator answers for pool 'default' at 127.0.0.1:", "callboard dev")


async def test_silence_ends_with_4(orchestrator: ScriptedOrchestrator, callboard: CommandLine) -> None:
    orchestrator.on("status", SILENCE)
    assert_one_line_of_error(await callboard("status", "--timeout", "300ms"), 4)


async def test_without_nats_it_says_where_it_looked(elsewhere: CommandLine) -> None:
    done = await elsewhere("get", TASK_ID, "--nats-url", "nats://127.0.0.1:1", "--timeout", "300ms")
    assert_one_line_of_error(done, 4, "127.0.0.1:1", "is this its address")


async def test_credentials_that_are_not_taken_are_not_called_a_wrong_address(
    elsewhere: CommandLine, tmp_path: Path
) -> None:
    async with EmbeddedNats(tmp_path / "nats", token="right", jetstream=False) as server:  # noqa: S106 - this test's own
        url = f"nats://wrong@127.0.0.1:{server.port}"
        done = await elsewhere("get", TASK_ID, "--nats-url", url, "--timeout", "300ms")
    where = f"127.0.0.1:{server.port}"
    assert_one_line_of_error(done, 4, f"{where}: authorization failed: mend the token in the address\n")


async def test_the_address_that_dev_left_is_found(
    orchestrator: ScriptedOrchestrator, nats_server: EmbeddedNats, elsewhere: CommandLine
) -> None:
    orchestrator.on("tasks.get", task())
    addresses = {"nats_url": nats_server.url, "http_url": "http://x", "database_url": "postgresql://x", "pid": 1}
    for directory, option in ((".local/share/callboard", []), ("mine", ["--data-dir", "mine"])):
        (elsewhere.home / directory).mkdir(parents=True)
        (elsewhere.home / directory / "callboard.json").write_text(json.dumps(addresses))
        done = await elsewhere("get", TASK_ID, "--json", *option)
        assert (done.status, json.loads(done.out)["task_id"]) == (0, TASK_ID)


async def test_a_dev_that_is_gone_is_named(elsewhere: CommandLine) -> None:
    file = elsewhere.home / "mine" / "callboard.json"
    assert_one_line_of_error(await elsewhere("status", "--data-dir", "mine"), 2, "mine", "callboard dev")
    file.parent.mkdir()
    file.write_text('{"nats_url": "nats://127.0.0.1:1", "pid": 4242}')
    assert_one_line_of_error(await elsewhere("status", "--data-dir", "mine"), 4, "process 4242", "127.0.0.1:1")
    file.write_text("{")
    assert_one_line_of_error(await elsewhere("status", "--data-dir", "mine"), 2, "callboard.json")


async def test_submit_and_wait_prints_the_result(orchestrator: ScriptedOrchestrator, callboard: CommandLine) -> None:
    orchestrator.on("tasks.submit", SUBMITTED).on("tasks.wait", task("running"), task(result={"lines": 3}))
    assert await callboard("submit", "review", "--wait") == Finished(0, '{"lines": 3}\n', "")


async def test_submit_says_when_nobody_could_take_it_or_the_key_was_used(
    orchestrator: ScriptedOrchestrator, callboard: CommandLine
) -> None:
    orchestrator.on("tasks.submit", SUBMITTED | {"satisfiable": False, "created": False})
    done = await callboard("submit", "review")
    assert (done.status, done.out) == (0, f"{TASK_ID}\n")
    assert "no agent known could take it" in done.err
    assert f"has its task already: {TASK_ID}" in done.err


@pytest.mark.parametrize("state", ["failed", "cancelled", "expired", "quarantined"])
async def test_a_task_that_ended_badly_is_status_1(
    orchestrator: ScriptedOrchestrator, callboard: CommandLine, state: str
) -> None:
    orchestrator.on("tasks.wait", task(state, error={"message": "no such file"}))
    assert_one_line_of_error(await callboard("wait", TASK_ID), 1, f"task {TASK_ID} {state}: no such file")


async def test_wait_as_json_prints_the_whole_task_whatever_became_of_it(
    orchestrator: ScriptedOrchestrator, callboard: CommandLine
) -> None:
    orchestrator.on("tasks.wait", task(result=[1]), task("failed", error={"message": "broken"}))
    good, bad = await callboard("wait", TASK_ID, "--json"), await callboard("wait", TASK_ID, "--json")
    assert (good.status, json.loads(good.out)["result"], good.err) == (0, [1], "")
    assert (bad.status, json.loads(bad.out)["state"]) == (1, "failed")
    assert "broken" in bad.err


async def test_a_task_that_is_not_final_in_time_is_status_4(
    orchestrator: ScriptedOrchestrator, callboard: CommandLine
) -> None:
    orchestrator.on("tasks.wait", task("running"))
    done = await callboard("wait", TASK_ID, "--within", "50ms")
    assert_one_line_of_error(done, 4, "is running and goes on", f"callboard wait {TASK_ID}")


async def test_a_wait_that_breaks_off_names_the_task_and_how_to_wait_for_it(
    orchestrator: ScriptedOrchestrator, callboard: CommandLine
) -> None:
    orchestrator.on("tasks.submit", SUBMITTED).on("tasks.wait", UnavailableError("away: nothing was sent"))
    done = await callboard("submit", "t", "--wait", "--timeout", "300ms")
    assert_one_line_of_error(done, 4, TASK_ID, "away; the task goes on", f"callboard wait {TASK_ID}")
    assert "nothing was sent" not in done.err


async def test_an_interrupted_wait_is_130_and_says_that_the_task_goes_on(
    orchestrator: ScriptedOrchestrator, callboard: CommandLine
) -> None:
    orchestrator.on("tasks.wait", SILENCE)
    process = await callboard.start("wait", TASK_ID)
    async with asyncio.timeout(30):
        await orchestrator.arrived["tasks.wait"].wait()
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()
    assert (process.returncode, out) == (130, b"")
    assert err == f"callboard: the task goes on; see: callboard wait {TASK_ID}\n".encode()


async def test_get_shows_the_task_to_people_without_its_control_characters(
    orchestrator: ScriptedOrchestrator, callboard: CommandLine
) -> None:
    attempts = [
        {
            "attempt": 1,
            "agent_id": "reviewer-1",
            "started_at": "2026-01-02T03:04:05Z",
            "ended_at": "2026-01-02T03:04:07.500Z",
            "outcome": "failed",
            "error": {"message": "[red]broken\x1b[2J"},
        }
    ]
    orchestrator.on(
        "tasks.get",
        task(
            description="a\x1b]0;evil\x07 [bold]text",
            payload={"file": "a.py"},
            result=None,
            progress={"percent": 40, "message": "parsing"},
            attempts=attempts,
        ),
    )
    done = await callboard("get", "--key", "k")
    assert (done.status, done.err) == (0, "")
    assert "\x1b" not in done.out
    for text in (TASK_ID, "succeeded", '{"file": "a.py"}', "40% parsing", "2.5s", "[red]broken", "[bold]text"):
        assert text in done.out
    assert orchestrator.requests["tasks.get"] == [{"key": "k"}]


async def test_get_as_json_is_the_document_to_the_byte_where_it_counts(
    orchestrator: ScriptedOrchestrator, callboard: CommandLine
) -> None:
    sent = task(payload={"a": 1.5}, result={"b": "\u2603"}, progress={"data": {"c": 1}})
    orchestrator.on("tasks.get", sent)
    done = await callboard("get", TASK_ID, "--json")
    assert done.out.count("\n") == 1
    assert json.loads(done.out) == sent


async def test_list_filters_and_names_the_next_page(orchestrator: ScriptedOrchestrator, callboard: CommandLine) -> None:
    orchestrator.on("tasks.list", {"tasks": [task("failed", description="x" * 60)], "cursor": "n1"})
    done = await callboard(
        *["list", "--state", "failed", "--type", "review", "--agent", "a", "--limit", "1", "--cursor", "c"]
    )
    assert done.status == 0
    assert done.out.splitlines()[0].split()[:3] == ["TASK", "TYPE", "STATE"]
    assert TASK_ID in done.out.splitlines()[1]
    assert "--cursor n1" in done.err
    assert orchestrator.requests["tasks.list"] == [
        {"state": "failed", "type": "review", "agent_id": "a", "limit": 1, "cursor": "c"}
    ]
    page = await callboard("list", "--json")
    assert json.loads(page.out)["cursor"] == "n1"
    assert page.err == ""


async def test_list_all_goes_through_the_pages_one_task_a_line(
    orchestrator: ScriptedOrchestrator, callboard: CommandLine
) -> None:
    def pages(request: dict[str, object]) -> dict[str, object]:
        following = {"None": "n1", "n1": "n2"}.get(str(request.get("cursor")))
        return {"tasks": [task(), task()], **({"cursor": following} if following else {})}

    orchestrator.on("tasks.list", pages)
    done = await callboard("list", "--all", "--json")
    assert [json.loads(line)["task_id"] for line in done.out.splitlines()] == [TASK_ID] * 6
    table = await callboard("list", "--all")
    assert len(table.out.splitlines()) == 7
    assert (done.err, table.err) == ("", "")


async def test_a_reader_that_goes_away_is_no_error(orchestrator: ScriptedOrchestrator, callboard: CommandLine) -> None:
    orchestrator.on("tasks.list", {"tasks": [task()] * 50, "cursor": "again"})
    process = await callboard.start("list", "--all", "--json")
    assert process.stdout is not None
    assert process.stderr is not None
    async with asyncio.timeout(30):
        await process.stdout.readline()
        process.stdout._transport.close()  # type: ignore[attr-defined]  # what `| head -1` does
        err = await process.stderr.read()
        assert await process.wait() == 141
    assert err == b""


async def finished_writing_to(callboard: CommandLine, stdout: int, *arguments: str) -> tuple[int | None, str]:
    process = await callboard.start(*arguments, stdout=stdout)
    os.close(stdout)
    async with asyncio.timeout(30):
        _, err = await process.communicate()
    return process.returncode, err.decode()


@pytest.mark.parametrize("argument", ["--help", "version"])
async def test_a_reader_that_has_gone_before_the_first_line_is_141(elsewhere: CommandLine, argument: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    assert await finished_writing_to(elsewhere, writer, argument) == (141, "")


@pytest.mark.parametrize("argument", ["--help", "version"])
async def test_an_output_that_is_full_is_one_line_and_status_4(elsewhere: CommandLine, argument: str) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    expected = "callboard: No space left on device: standard output\n"
    assert await finished_writing_to(elsewhere, full, argument) == (4, expected)


@pytest.mark.parametrize("directory", ["file", "file/below", "/proc/x"])
async def test_a_directory_that_cannot_be_is_one_line_and_status_2(elsewhere: CommandLine, directory: str) -> None:
    (elsewhere.home / "file").touch()
    assert_one_line_of_error(await elsewhere("dev", "--data-dir", directory), 2, directory)


async def test_a_port_that_is_taken_is_named_with_status_4(elsewhere: CommandLine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        done = await elsewhere("dev", "--data-dir", "mine", "--http-port", port)
    assert (done.status, done.out) == (4, "")
    complaint = done.err.splitlines()[-1]
    assert complaint.startswith("callboard: ")
    assert port in complaint
    assert "address already in use" in complaint.lower()
    assert "CALLBOARD_HTTP_PORT" in complaint
    assert "--http-port" in complaint
    assert "Traceback" not in done.err


async def test_cancel_and_retry(orchestrator: ScriptedOrchestrator, callboard: CommandLine) -> None:
    change = {"task_id": TASK_ID, "state": "cancelled", "changed": False}
    orchestrator.on("tasks.cancel", change).on("tasks.retry", {"task_id": "new", "state": "queued", "changed": True})
    cancelled = await callboard("cancel", TASK_ID, "--reason", "obsolete")
    assert cancelled == Finished(0, f"{TASK_ID} cancelled (already)\n", "")
    assert json.loads((await callboard("cancel", TASK_ID, "--json")).out) == change
    assert await callboard("retry", TASK_ID) == Finished(0, "new\n", "")
    assert orchestrator.requests["tasks.cancel"][0] == {"task_id": TASK_ID, "reason": "obsolete"}


async def test_a_question_is_shown_and_answered(orchestrator: ScriptedOrchestrator, callboard: CommandLine) -> None:
    question = {"query": 2, "prompt": "a or b?", "data": ["a", "b"], "asked_at": "2026-01-02T03:04:05Z"}
    orchestrator.on("tasks.get", task("waiting_input", attempt=3, question=question))
    orchestrator.on("tasks.answer", {"task_id": TASK_ID, "state": "running", "changed": True})
    shown = await callboard("get", TASK_ID)
    assert 'a or b? ["a", "b"] (question 2)' in shown.out
    assert await callboard("answer", TASK_ID, "b") == Finished(0, f"{TASK_ID} running\n", "")
    await callboard("answer", TASK_ID, "--value", '{"choice": "b"}', "--attempt", "1", "--query", "1")
    assert orchestrator.requests["tasks.answer"] == [
        {"task_id": TASK_ID, "attempt": 3, "query": 2, "answer": "b"},
        {"task_id": TASK_ID, "attempt": 1, "query": 1, "answer": {"choice": "b"}},
    ]
    for wrong in ((), ("b", "--value", "1"), ("--value", "{")):
        assert (await callboard("answer", TASK_ID, *wrong)).status == 2


async def test_an_answer_to_a_task_without_an_attempt_reaches_the_orchestrator_and_is_told_what_to_do(
    orchestrator: ScriptedOrchestrator, callboard: CommandLine
) -> None:
    refusal = InvalidTransitionError(f"task {TASK_ID} is queued and asks nothing", state="queued")
    orchestrator.on("tasks.get", task("queued", attempt=0)).on("tasks.answer", refusal)
    done = await callboard("answer", TASK_ID, "yes")
    assert_one_line_of_error(done, 3, f"{TASK_ID} is queued", "callboard list --state waiting_input")
    assert orchestrator.requests["tasks.answer"] == [{"task_id": TASK_ID, "answer": "yes"}]


async def test_a_wait_on_a_terminal_says_what_is_asked_and_how_to_answer(
    orchestrator: ScriptedOrchestrator, callboard: CommandLine
) -> None:
    question = {"query": 1, "prompt": "a or b?", "asked_at": "2026-01-02T03:04:05Z"}
    waiting = task("waiting_input", agent_id="reviewer-1", question=question)
    orchestrator.on("tasks.get", waiting, waiting, task("succeeded", version=2, result=7))
    controller, terminal = pty.openpty()
    on_terminal = CommandLine(callboard.home, callboard.env | {"TERM": "xterm", "COLUMNS": "200"})
    process = await on_terminal.start("wait", TASK_ID, stderr=terminal)
    os.close(terminal)
    async with asyncio.timeout(30):
        await process.communicate()
    drawn = read_all(controller)
    assert f"a or b? (question 1); answer with: callboard answer {TASK_ID} ..." in drawn


async def test_agents_and_agent_get(orchestrator: ScriptedOrchestrator, callboard: CommandLine) -> None:
    orchestrator.on("agents.list", {"agents": [AGENT]}).on("agents.get", AGENT)
    table = await callboard("agents", "--capability", "lint", "--state", "online")
    assert table.status == 0
    for text in ("reviewer-1", "online", "1/4", "90%", "python, lint"):
        assert text in table.out
    assert orchestrator.requests["agents.list"] == [{"state": "online", "capability": "lint"}]
    assert json.loads((await callboard("agents", "--json")).out)["agents"][0]["agent_id"] == "reviewer-1"
    lines = await callboard("agents", "--all", "--json")
    assert json.loads(lines.out)["slots"] == 4
    one = await callboard("agent", "get", "reviewer-1")
    for text in ("reviewer-1", "gpu=True", "1 of 4 used", f"{TASK_ID} (attempt 2)"):
        assert text in one.out


async def test_verbs_on_agents(orchestrator: ScriptedOrchestrator, callboard: CommandLine) -> None:
    changed = {"agent_id": "a", "state": "draining", "changed": True}
    for verb in ("drain", "resume", "shutdown"):
        orchestrator.on(f"agents.{verb}", changed)
    orchestrator.on("agents.spawn", {"agent_id": "tester-1", "state": "online"})
    assert await callboard("drain", "a", "--reason", "maintenance") == Finished(0, "a draining\n", "")
    assert (await callboard("resume", "a")).status == 0
    assert (await callboard("shutdown", "a", "--grace", "1s")).status == 0
    assert orchestrator.requests["agents.drain"] == [{"agent_id": "a", "reason": "maintenance"}]
    assert orchestrator.requests["agents.shutdown"] == [{"agent_id": "a", "grace_ms": 1000}]
    options = "--capability python --agent-id tester-1 --slots 2 --label gpu=true --label zone=a --env DEBUG=1"
    assert await callboard("spawn", "tester", *options.split()) == Finished(0, "tester-1\n", "")
    assert orchestrator.requests["agents.spawn"] == [
        {
            "role": "tester",
            "capabilities": ["python"],
            "agent_id": "tester-1",
            "slots": 2,
            "labels": {"gpu": True, "zone": "a"},
            "env": {"DEBUG": "1"},
        }
    ]


async def test_status_for_people_and_programs(orchestrator: ScriptedOrchestrator, callboard: CommandLine) -> None:
    orchestrator.on("status", STATUS)
    shown = await callboard("status")
    assert shown.status == 0
    for text in ("up 1h1m", "r1, epoch 7", "2 online", "5 queued, 1 running", "1.2ms", "50.0% succeeded", "end to end"):
        assert text in shown.out
    assert json.loads((await callboard("status", "--json")).out)["owner"]["epoch"] == 7


async def test_status_tells_live_tasks_from_those_that_ended_since_the_owner_took_over(
    orchestrator: ScriptedOrchestrator, callboard: CommandLine
) -> None:
    orchestrator.on("status", STATUS, STATUS | {"tasks": {"by_state": {}}})
    shown = await callboard("status")
    assert "live tasks    5 queued, 1 running, the oldest queued for 1.5s\n" in shown.out
    assert "ended tasks   12 succeeded, 3 failed, since r1 owns the pool\n" in shown.out
    idle = await callboard("status")
    assert "live tasks    none\n" in idle.out
    assert "ended tasks   none, since r1 owns the pool\n" in idle.out


async def test_status_shows_what_is_paused(orchestrator: ScriptedOrchestrator, callboard: CommandLine) -> None:
    orchestrator.on("status", STATUS | {"paused": True, "paused_types": ["nightly", "weekly"]}, STATUS)
    paused = await callboard("status")
    assert "paused        the pool, type nightly, type weekly\n" in paused.out
    assert "paused" not in (await callboard("status")).out


@pytest.mark.parametrize("term", ["xterm", "dumb"])
async def test_no_id_is_cut_or_broken_on_a_narrow_terminal(
    orchestrator: ScriptedOrchestrator, callboard: CommandLine, term: str
) -> None:
    long_id = "reviewer-" + "0123456789" * 5 + "-end"
    shown = task("running", agent_id=long_id, type="t" * 64, description="x" * 80)
    orchestrator.on("tasks.list", {"tasks": [shown]}).on("tasks.get", shown).on("agents.list", {"agents": [AGENT]})
    env = {"TERM": term, "COLUMNS": "40"}
    assert f" {long_id} " in await drawn_by(callboard, env, "list")
    assert f" {long_id}\r\n" in await drawn_by(callboard, env, "get", TASK_ID)


@pytest.mark.parametrize("columns", ["80", "120"])
async def test_progress_shows_the_agents_id_and_the_message_whole(
    orchestrator: ScriptedOrchestrator, callboard: CommandLine, columns: str
) -> None:
    agent_id = "reviewer-" + "0123456789" * 5
    running = task("running", agent_id=agent_id, progress={"percent": 40, "message": "parsing a long list of files"})
    orchestrator.on("tasks.get", running, running, task("succeeded", version=2, result=7))
    drawn = await drawn_by(callboard, {"TERM": "xterm", "COLUMNS": columns}, "wait", TASK_ID)
    assert f"on {agent_id}" in drawn
    assert "files" in drawn
    assert "…" not in drawn


async def drawn_by(callboard: CommandLine, env: dict[str, str], *arguments: str) -> str:
    """What a command writes to a terminal that is all its output."""
    controller, terminal = pty.openpty()
    process = await CommandLine(callboard.home, callboard.env | env).start(*arguments, stdout=terminal, stderr=terminal)
    os.close(terminal)
    async with asyncio.timeout(30):
        await process.communicate()
    return read_all(controller)


async def test_a_wait_on_a_terminal_draws_progress_there_and_only_there(
    orchestrator: ScriptedOrchestrator, callboard: CommandLine
) -> None:
    running = task("running", agent_id="reviewer-1", progress={"percent": 40, "message": "[red]parsing"})
    orchestrator.on("tasks.submit", SUBMITTED)
    orchestrator.on("tasks.get", running, running, task("succeeded", version=2, result=7))
    controller, terminal = pty.openpty()
    # A dumb terminal would get no bar.
    on_terminal = CommandLine(callboard.home, callboard.env | {"TERM": "xterm", "COLUMNS": "120"})
    process = await on_terminal.start("submit", "review", "--wait", stderr=terminal)
    os.close(terminal)
    async with asyncio.timeout(30):
        out, _ = await process.communicate()
    drawn = read_all(controller)
    assert (process.returncode, out) == (0, b"7\n")
    assert "on reviewer-1 [red]parsing" in drawn
    assert "running" in drawn


def read_all(controller: int) -> str:
    """What was written to a terminal that nobody holds open any more."""
    parts = []
    try:
        while part := os.read(controller, 65_536):
            parts.append(part)
    except OSError:
        pass  # Linux says EIO at the end of a terminal
    finally:
        os.close(controller)
    return b"".join(parts).decode()


async def test_agent_exec_makes_an_agent_of_a_command_until_it_is_terminated(
    orchestrator: ScriptedOrchestrator, callboard: CommandLine
) -> None:
    beat = {"epoch": 1, "heartbeat_interval_ms": 1000, "lease_ms": 3000, "cancel": [], "drain": False}
    now = "2026-01-02T03:04:05Z"
    orchestrator.on("agent.register", beat | {"agent_id": "counter", "pool": "default", "server_time": now})
    orchestrator.on("agent.heartbeat", beat | {"database": "ok"})
    orchestrator.on("agent.complete", {"recorded": True}).on("agent.leave", {})
    options = "agent exec --agent-id counter --capability count --slots 2 --label zone=a --output json -- wc -c"
    process = await callboard.start(*options.split())
    offer = {"epoch": 1, "task_id": TASK_ID, "attempt": 1, "type": "count", "priority": "normal", "metadata": {}}
    async with asyncio.timeout(30):
        await orchestrator.arrived["agent.register"].wait()
        [signed_in] = orchestrator.requests["agent.register"]
        assert (signed_in["capabilities"], signed_in["slots"]) == (["count"], 2)
        assert signed_in["labels"] == {"zone": "a"}
        assert await orchestrator.tell_agent("counter", "assign", offer | {"payload": "12345"}) == {"accepted": True}
        await orchestrator.arrived["agent.complete"].wait()
        process.send_signal(signal.SIGTERM)
        out, _ = await process.communicate()
    assert orchestrator.requests["agent.complete"][0]["result"] == 5
    assert orchestrator.arrived["agent.leave"].is_set()
    assert (process.returncode, out) == (0, b"")


async def test_agent_exec_tries_an_address_that_nobody_gave_once(elsewhere: CommandLine) -> None:
    file = elsewhere.home / ".local/share/callboard/callboard.json"
    file.parent.mkdir(parents=True)
    file.write_text('{"nats_url": "nats://127.0.0.1:1", "pid": 4242}')
    assert_one_line_of_error(await elsewhere("agent", "exec", "--", "ls"), 4, "process 4242", "127.0.0.1:1")


async def test_version_and_help_need_no_server(elsewhere: CommandLine) -> None:
    version, option = await elsewhere("version"), await elsewhere("--version")
    assert version.out.startswith("callboard ")
    assert option.out.strip() == version.out.split()[1]
    shown = await elsewhere("--help")
    assert (shown.status, shown.err) == (0, "")
    assert "Exit status:" in shown.out
