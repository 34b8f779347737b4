"""The orchestrator's end of the wire, played from a script by a plain NATS client.

It knows nothing of the product but subjects and JSON: what a client sends is recorded as it came, what it gets is what
the test wrote down.
"""

import asyncio
import json
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Self

import nats
from nats.aio.client import Client as Connection
from nats.aio.msg import Msg

from callboard.schemas.errors import OrchestratorError

SILENCE = object()
"""A script's step: give no answer."""

TASK_ID = "01993b5e-7c1a-7bd2-8f0e-3a1f5c2d9e10"

Step = dict[str, Any] | OrchestratorError | object
Script = Step | Callable[[dict[str, Any]], Step]


def task(state: str = "succeeded", **fields: object) -> dict[str, Any]:
    """A task document as `get` answers it."""
    return {
        "task_id": TASK_ID,
        "state": state,
        "version": 1,
        "type": "review",
        "priority": "normal",
        "attempt": 1,
        "created_at": "2026-01-02T03:04:05Z",
        "updated_at": "2026-01-02T03:04:06Z",
        **fields,
    }


class ScriptedOrchestrator:
    """Answers each verb (`tasks.submit`, `status`, `agent.register`) with its script's next step, the last for ever."""

    def __init__(self, url: str, pool: str = "default") -> None:
        self._url = url
        self.root = f"callboard.v1.{pool}"
        self._scripts: dict[str, list[Script]] = {}
        self.requests: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.arrived: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._nats: Connection | None = None

    def on(self, verb: str, *steps: Script) -> Self:
        self._scripts[verb] = list(steps)
        return self

    async def __aenter__(self) -> Self:
        self._nats = await nats.connect(self._url)
        await self._nats.subscribe(f"{self.root}.tasks.*", cb=self._answer)
        await self._nats.subscribe(f"{self.root}.agents.*", cb=self._answer)
        await self._nats.subscribe(f"{self.root}.status", cb=self._answer)
        await self._nats.subscribe(f"{self.root}.agent.*.*", cb=self._answer)
        await self._nats.flush()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._nats is not None
        await self._nats.close()

    async def publish_event(self, state: str, task_id: str = TASK_ID) -> None:
        assert self._nats is not None
        await self._nats.publish(f"{self.root}.event.task.{state}.{task_id}", b"{}")

    async def tell_agent(self, agent_id: str, verb: str, body: dict[str, Any]) -> dict[str, Any]:
        """A request to an agent, and its answer."""
        assert self._nats is not None
        message = await self._nats.request(f"{self.root}.to.{agent_id}.{verb}", json.dumps(body).encode(), timeout=10)
        answer: dict[str, Any] = json.loads(message.data)
        return answer

    async def _answer(self, message: Msg) -> None:
        assert self._nats is not None
        verb = message.subject.removeprefix(f"{self.root}.")
        if verb.startswith("agent."):
            verb = f"agent.{verb.rpartition('.')[2]}"
        request = json.loads(message.data)
        self.requests[verb].append(request)
        steps = self._scripts.get(verb)
        if steps is None:
            self.arrived["unscripted"].set()
            raise AssertionError(f"{verb} is not in the script: {request}")
        step = steps.pop(0) if len(steps) > 1 else steps[0]
        answer = step(request) if callable(step) else step
        if isinstance(answer, OrchestratorError):
            body = answer.body()
            headers = {"Nats-Service-Error": body.message, "Nats-Service-Error-Code": str(answer.number)}
            fields = {name: getattr(body, name) for name in body.__struct_fields__}
            await self._nats.publish(message.reply, json.dumps({"error": fields}).encode(), headers=headers)
        elif answer is not SILENCE:
            await self._nats.publish(message.reply, json.dumps(answer).encode())
        self.arrived[verb].set()
