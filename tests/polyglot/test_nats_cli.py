"""The real `nats` command as the inspector of a running orchestrator: all that it can show is shown.

It checks answers against JSON schemas and hides in silence what fails: so whatever it shows is counted and compared.
"""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest
from nats.errors import NoRespondersError
from tests.polyglot.conftest import WITHIN_S

if TYPE_CHECKING:
    from nats.aio.client import Client
    from tests.polyglot.conftest import Cli

pytestmark = pytest.mark.anyio

SERVICE = "callboard"
INSTANT = re.compile(r"\d{4}-\d\d-\d\dT")


async def raw(bus: Client, verb: str) -> dict[str, Any]:
    """The one answer to `$SRV.<verb>.callboard`, as it came."""
    answer: dict[str, Any] = json.loads((await bus.request(f"$SRV.{verb}.{SERVICE}", b"", timeout=WITHIN_S)).data)
    return answer


def contains(shown: Any, served: Any) -> bool:  # noqa: ANN401 - any JSON value
    """Whether everything that is served is shown, as it is; the command adds empty fields of its own."""
    if isinstance(served, dict):
        return isinstance(shown, dict) and all(contains(shown.get(name), value) for name, value in served.items())
    if isinstance(served, list):
        return isinstance(shown, list) and len(shown) == len(served) and all(map(contains, shown, served))
    return bool(shown == served) or same_instant(shown, served)


def same_instant(shown: Any, served: Any) -> bool:  # noqa: ANN401 - any JSON value
    """Whether both say one instant: the command writes it anew, without the zeros at the end of its fraction."""
    if not (isinstance(shown, str) and isinstance(served, str) and INSTANT.match(shown) and INSTANT.match(served)):
        return False
    return datetime.fromisoformat(shown) == datetime.fromisoformat(served)


def test_an_instant_is_the_same_with_fewer_digits() -> None:
    assert contains({"started": "2026-11-23T10:20:30.12Z"}, {"started": "2026-11-23T10:20:30.120Z"})
    assert not contains({"started": "2026-11-23T10:20:30.12Z"}, {"started": "2026-11-23T10:20:30.121Z"})
    assert not contains({"version": "1.10"}, {"version": "1.1"})


def rows(table: str) -> list[list[str]]:
    """The cells of a drawn table, less its borders."""
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in table.splitlines() if line.count("│") > 2]


async def test_ls_hides_no_service(cli: Cli, bus: Client) -> None:
    info = await raw(bus, "INFO")
    assert contains(await cli.json("micro", "ls", "--json"), [info])
    shown = rows(await cli.run("micro", "ls"))[1:]
    assert shown == [[info["name"], info["version"], info["id"], info["description"]]]


async def test_info_hides_no_endpoint(cli: Cli, bus: Client) -> None:
    info = await raw(bus, "INFO")
    assert len(info["endpoints"]) > 20
    assert contains((await cli.json("micro", "info", SERVICE, "--json"))["info"], info)
    text = await cli.run("micro", "info", SERVICE)
    assert [line.split()[1] for line in text.splitlines() if line.strip().startswith("Name: ")] == [
        endpoint["name"] for endpoint in info["endpoints"]
    ]
    for value in info["metadata"].values():
        assert value in text


async def test_stats_hides_no_endpoint_and_counts_requests(cli: Cli, bus: Client) -> None:
    await cli.ask("status")
    before = await raw(bus, "STATS")
    shown = await cli.json("micro", "stats", SERVICE, "--json")
    assert contains(shown, [{**before, "endpoints": [{"name": each["name"]} for each in before["endpoints"]]}])
    figures = {endpoint["name"]: endpoint for endpoint in shown[0]["endpoints"]}
    assert figures["status"]["num_requests"] >= 1
    assert figures["status"]["processing_time"] > 0
    body = rows(await cli.run("micro", "stats", SERVICE))[1:-1]
    assert [row[1] for row in body] == [endpoint["name"] for endpoint in before["endpoints"]]


async def test_ping_is_answered(cli: Cli, bus: Client) -> None:
    answer = await raw(bus, "PING")
    text = await cli.run("micro", "ping", SERVICE)
    assert text.split()[:2] == [SERVICE, answer["id"]]
    assert "rtt=" in text


async def test_a_request_by_the_name_of_its_endpoint(cli: Cli) -> None:
    status = json.loads(await cli.run("micro", "req", SERVICE, "status", "{}"))
    assert (status["pool"], status["health"]["database"]) == ("default", "ok")


async def test_an_agents_side_played_by_reply_runs_a_task_to_its_result(cli: Cli, bus: Client) -> None:
    """Submit, accept, complete and read: by the `nats` command alone, following the events of the pool."""
    agent_id, incarnation = f"by-hand-{uuid.uuid4().hex[:8]}", str(uuid.uuid4())
    to = f"callboard.v1.default.to.{agent_id}"
    answering = ("reply", f"{to}.*", '{"accepted": true}', "--queue", agent_id)
    async with cli.started(*answering), cli.started("sub", "callboard.v1.default.event.>") as sub:
        await answered(bus, f"{to}.drain")
        await subscribed(sub, bus)
        registered = await cli.ask(f"agent.{agent_id}.register", incarnation=incarnation)
        assert registered["agent_id"] == agent_id
        submitted = await cli.ask("tasks.submit", type="by-hand", payload=[1], requires={"agent_id": agent_id})
        task_id = submitted["task_id"]
        assert await printed_states(sub, task_id, until="running") == ["queued", "assigned", "running"]
        held = {"task_id": task_id, "attempt": 1, "incarnation": incarnation}
        recorded = await cli.ask(f"agent.{agent_id}.complete", **held, result={"read": "ü"})
        assert recorded == {"recorded": True}
        assert await printed_states(sub, task_id, until="succeeded") == ["succeeded"]
    task = await cli.ask("tasks.get", task_id=task_id)
    assert (task["state"], task["result"], task["agent_id"]) == ("succeeded", {"read": "ü"}, agent_id)
    assert await cli.ask(f"agent.{agent_id}.leave", incarnation=incarnation) == {}


async def answered(bus: Client, subject: str) -> None:
    """Ask until somebody answers."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            try:
                await bus.request(subject, b"{}", timeout=WITHIN_S)
            except NoRespondersError:
                continue
            return


async def subscribed(sub: asyncio.subprocess.Process, bus: Client) -> None:
    """Publish something until it is printed."""
    assert sub.stdout is not None
    heard = asyncio.create_task(sub.stdout.readline())
    async with asyncio.timeout(WITHIN_S):
        while not heard.done():
            await bus.publish("callboard.v1.default.event.probe", b"{}")
            await asyncio.wait([heard], timeout=0.05)
    assert heard.result()


async def printed_states(sub: asyncio.subprocess.Process, task_id: str, *, until: str) -> list[str]:
    """The states of one task in the order in which `nats sub` prints its events."""
    assert sub.stdout is not None
    found: list[str] = []
    async with asyncio.timeout(WITHIN_S):
        while until not in found:
            line = await sub.stdout.readline()
            assert line, "the command ended"
            found += re.findall(rf'Received on "callboard.v1.default.event.task.(\w+).{task_id}"', line.decode())
    return found


async def test_the_mirror_is_watched(cli: Cli) -> None:
    agent_id, incarnation = f"mirrored-{uuid.uuid4().hex[:8]}", str(uuid.uuid4())
    async with cli.started("kv", "watch", "callboard_default") as watch, asyncio.timeout(WITHIN_S):
        assert watch.stdout is not None
        await cli.ask(f"agent.{agent_id}.register", incarnation=incarnation)
        seen: set[str] = set()
        while not {"status", f"agents.{agent_id}"} <= seen:
            line = (await watch.stdout.readline()).decode()
            assert line, "the command ended"
            seen |= {name for name in ("status", f"agents.{agent_id}") if f"callboard_default > {name}:" in line}
    shown = await cli.json("kv", "get", "callboard_default", f"agents.{agent_id}", "--raw")
    assert shown["incarnation"] == incarnation
    assert await cli.ask(f"agent.{agent_id}.leave", incarnation=incarnation) == {}


async def test_an_error_shows_its_code_in_the_headers(cli: Cli) -> None:
    async with cli.started("req", "callboard.v1.default.tasks.get", '{"key": "nobody"}') as process:
        output, log = await process.communicate()
    assert b"Nats-Service-Error-Code: 404" in log + output
    assert json.loads(output)["error"]["code"] == "task_not_found"
