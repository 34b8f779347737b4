"""The golden messages, sent to a real orchestrator: the bad are refused as they say, the answers fit the schemas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from jsonschema import Draft202012Validator
from tests.contract.conftest import Served, connected, serving
from tests.contract.support import PATIENCE_S, RefusedError, Wire, read_answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from callboard.bus.embedded import EmbeddedNats
    from callboard.orchestrator.store.embedded import EmbeddedPostgres

pytestmark = pytest.mark.anyio

SCHEMAS = Path(__file__).parents[2] / "schemas"
GOLDEN = [json.loads(path.read_text()) for path in sorted((SCHEMAS / "golden").glob("*.json"))]
ASKED = [golden for golden in GOLDEN if golden.get("answer") and not golden["operation"].startswith("to.")]
POOL = "golden"


@pytest.fixture(scope="module")
async def served(
    contract_nats: EmbeddedNats,
    postgres_server: EmbeddedPostgres,
    database_names: Iterator[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Served]:
    """An orchestrator whose one pool is nobody else's: the good messages leave tasks and an agent behind."""
    log = tmp_path_factory.mktemp("golden") / "serve.log"
    name = next(database_names)
    settings = {"CALLBOARD_POOLS": POOL, "CALLBOARD_ROLES": json.dumps({"worker": {"env_allow": ["GREETING"]}})}
    async with serving(contract_nats.url, postgres_server, name, log, **settings) as served:
        yield served


@pytest.fixture
async def golden_wire(served: Served) -> AsyncIterator[Wire]:
    async with connected(served.nats_url, f"callboard.v1.{POOL}") as wire:
        yield wire


def misfits(name: str, message: Any) -> list[str]:  # noqa: ANN401 - any JSON value
    schema = json.loads((SCHEMAS / "json" / f"{name}.json").read_text())
    return [f"{error.json_path}: {error.message}" for error in Draft202012Validator(schema).iter_errors(message)]


@pytest.mark.parametrize("golden", ASKED, ids=lambda golden: golden["operation"])
async def test_what_is_bad_is_refused_and_what_is_good_is_answered_by_the_schema(
    golden_wire: Wire, golden: dict[str, Any]
) -> None:
    subject = golden["subject"].replace(".default.", f".{POOL}.").replace("{agent_id}", "reviewer-1")
    ask = golden_wire.nats.request
    for bad in golden["bad"]:
        answer = await ask(subject, json.dumps(bad["message"]).encode(), timeout=PATIENCE_S)
        with pytest.raises(RefusedError) as refusal:
            read_answer(answer)
        assert (refusal.value.code, refusal.value.details.get("path")) == (bad["code"], bad["path"]), bad["note"]
        assert misfits("ErrorAnswer", json.loads(answer.data)) == []
    for good in golden["good"]:
        answer = await ask(subject, json.dumps(good["message"]).encode(), timeout=PATIENCE_S)
        document = json.loads(answer.data)
        # It may be refused for what it asks, e.g. a task that nobody has; never for how it is written.
        is_refused = "Nats-Service-Error" in (answer.headers or {})
        assert misfits("ErrorAnswer" if is_refused else golden["answer"], document) == [], good["note"]
        assert not is_refused or document["error"]["code"] != "invalid_request", document


async def test_what_is_published_fits_the_schemas(golden_wire: Wire) -> None:
    task_id = await golden_wire.submit()
    await golden_wire.ask("tasks.cancel", task_id=task_id)
    await golden_wire.events.until(task_id, "cancelled")
    await golden_wire.ask("agent.witness.register", incarnation="7d0c3d5e-6f43-4a19-9a57-2f6f3a1f9a11")
    await golden_wire.events.until("witness", "online")
    for kind, event in golden_wire.events.seen:
        name = {"task": "TaskChanged", "agent": "AgentChanged"}[kind.partition(".")[0]]
        assert misfits(name, event) == []
    document = await golden_wire.get(task_id)
    assert misfits("TaskDocument", document) == []
