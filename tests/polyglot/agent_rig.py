"""An agent of any language in a process of its own, and the orchestrator's side of its wire, played by the test."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonschema import Draft202012Validator
from tests.polyglot.toolchains import REPOSITORY
from tests.support.agent_side import WITHIN_S, AgentSide

from callboard.schemas.errors import OutcomeUnknownError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.polyglot.languages import Language

    from callboard.bus.connection import BusMessage

MESSAGES = {
    "register": "Register",
    "heartbeat": "Heartbeat",
    "complete": "Complete",
    "fail": "Fail",
    "progress": "ReportProgress",
    "leave": "Leave",
}


class Rig(AgentSide):
    """One agent process and all that it said; `misfits` tells what of it breaks the contract."""

    def __init__(self, url: str, agent_id: str, log: Path, interval_ms: int) -> None:
        super().__init__(url, agent_id, interval_ms=interval_ms)
        self._url = url
        self._log = log
        self._raw: list[tuple[str, Any, str]] = []
        self.process: asyncio.subprocess.Process

    def _received(self, message: BusMessage) -> None:
        self._raw.append((message.subject.rpartition(".")[2], json.loads(message.data), message.reply))
        super()._received(message)

    async def start(self, command: list[str], *, slots: int = 1, nats_url: str | None = None) -> None:
        """Start the process; its log is the test's."""
        own = {name: value for name, value in os.environ.items() if not name.startswith(("CALLBOARD_", "NATS_"))}
        given = {"NATS_URL": nats_url or self._url, "CALLBOARD_AGENT_ID": self.agent_id, "CALLBOARD_SLOTS": str(slots)}
        with self._log.open("wb") as output:
            self.process = await asyncio.create_subprocess_exec(
                *command, cwd=REPOSITORY, env={**own, **given}, stdout=output, stderr=output,
                stdin=asyncio.subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip

    def kill(self) -> None:
        """SIGKILL for it and the processes that it has started."""
        kill_session(self.process)

    async def ended(self) -> int:
        """Its exit status."""
        async with asyncio.timeout(WITHIN_S):
            return await self.process.wait()

    def intervals(self, count: int) -> dict[str, int]:
        """The payload of a `sleep` over so many heartbeats."""
        return {"ms": count * self.interval_ms}

    async def unheard(self, verb: str, **fields: object) -> None:
        """Send an order that the agent must not acknowledge."""
        subject = f"callboard.v1.default.to.{self.agent_id}.{verb}"
        try:
            answer = await self.bus.request(subject, json.dumps(fields).encode(), timeout_s=0.5)
        except OutcomeUnknownError:
            return
        except UnavailableError:
            raise AssertionError("nobody listens") from None
        # The `nats` command cannot keep silent: where its script has nothing to say, it answers with nothing.
        assert answer.data == b"", f"answered: {answer.data!r}"

    async def beats(self, count: int = 2) -> dict[str, Any]:
        """A heartbeat that was begun after this call."""
        return await self.more("heartbeat", count)

    async def beats_until(self, running: list[dict[str, Any]]) -> None:
        """Wait for a heartbeat that lists just these attempts, in whatever order."""
        wanted = sorted(running, key=str)
        async with asyncio.timeout(WITHIN_S):
            while sorted((await self.more("heartbeat"))["running"], key=str) != wanted:
                pass

    def misfits(self) -> list[str]:
        """What was said against the schemas, or to be answered elsewhere than below the agent's own inbox."""
        found: list[str] = []
        for verb, message, reply in self._raw:
            schema = json.loads((REPOSITORY / "schemas" / "json" / f"{MESSAGES[verb]}.json").read_text())
            found += [f"{verb}: {error.json_path}: {error.message}" for error in schema_errors(schema, message)]
            if verb != "progress" and not reply.startswith(f"_INBOX.{self.agent_id}."):
                found.append(f"{verb}: to be answered to {reply}")
        return found


def kill_session(leader: asyncio.subprocess.Process) -> None:
    """SIGKILL for a process that was started with `start_new_session`, and for all that it has started."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it may be gone by now
            session = int(stat.read_text().rpartition(")")[2].split()[3])
            if session == leader.pid:
                os.kill(int(stat.parent.name), signal.SIGKILL)


def tail(log: Path) -> str:
    """The end of a log, for the story of a failure."""
    return log.read_text(errors="replace")[-4000:]


def schema_errors(schema: dict[str, Any], message: Any) -> list[Any]:  # noqa: ANN401 - any JSON value
    return list(Draft202012Validator(schema).iter_errors(message))


@asynccontextmanager
async def rigged(
    url: str, agent_id: str, log: Path, language: Language, *, slots: int = 1, nats_url: str | None = None
) -> AsyncIterator[Rig]:
    """An agent that has signed in; whatever it says until the end must fit the contract."""
    async with Rig(url, agent_id, log, language.interval_ms) as rig:
        await rig.start(language.build(), slots=slots, nats_url=nats_url)
        try:
            await rig.seen("register")
            yield rig
        except BaseException as error:
            error.add_note(f"the agent's log:\n{tail(log)}")
            raise
        finally:
            rig.kill()
            await rig.process.wait()
    assert rig.misfits() == []
