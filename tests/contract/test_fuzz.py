"""Random mutations of valid messages on every subject: one answer each, a document or a typed error; and it lives.

`CONTRACT_FUZZ_SEED` repeats a run, `CONTRACT_FUZZ_ROUNDS` lengthens it.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import secrets
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from tests.contract.support import RefusedError, Wire, fail_after, read_answer
from tests.contract.test_bad_input import AGENT, VALID

if TYPE_CHECKING:
    from nats.aio.msg import Msg

pytestmark = pytest.mark.anyio

ROUNDS = int(os.environ.get("CONTRACT_FUZZ_ROUNDS", "40"))
AT_ONCE = 50
FRAGMENTS = [
    b"null", b"true", b"-1", b"0", b"1e999", b"NaN", b"[]", b"{}", b'""', b'"\\u0000"', b'"\\ud800"', b"\x00", b"\xff",
    b'"a.b"', b'"*"', b"9" * 30, b"1.5", b"[" * 50, b'{"a":' * 50, b",", b":", b'"', b"\\", b"\r\n", b"PUB x 0\r\n\r\n",
]  # fmt: skip
VALUES: list[Any] = [
    None, True, False, 0, -1, 1.5, 2**31, 2**53, 2**63, 10**40, "", "a.b", "*", "a" * 300, "\u0000", "é", [], {}, [[]],
    {"a": None}, [None], "queued", "online", "2026-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z",
]  # fmt: skip


def mutated_value(dice: random.Random, value: Any) -> Any:  # noqa: ANN401 - any JSON
    """`value` with one change somewhere inside."""
    if isinstance(value, dict) and value and dice.random() < 0.8:
        name = dice.choice(sorted(value))
        changed = dict(value)
        if dice.random() < 0.2:
            del changed[name]
        elif dice.random() < 0.2:
            changed[dice.choice(["unknown", "", "task_id", "key", name.upper()])] = dice.choice(VALUES)
        else:
            changed[name] = mutated_value(dice, value[name])
        return changed
    if isinstance(value, list) and value and dice.random() < 0.5:
        return [mutated_value(dice, value[0]), *value]
    return dice.choice(VALUES)


def mutated_bytes(dice: random.Random, data: bytes) -> bytes:
    """`data` with some bytes flipped, cut out, doubled or put in."""
    for _ in range(dice.randint(1, 4)):
        at, to = sorted(dice.randint(0, len(data)) for _ in range(2))
        how = dice.randrange(5)
        if how == 0:
            data = data[:at] + data[to:]
        elif how == 1:
            data = data[:at] + data[at:to] * 2 + data[to:]
        elif how == 2:
            data = data[:at] + dice.randbytes(dice.randint(1, 4)) + data[at + 1 :]
        elif how == 3:
            data = data[:at] + dice.choice(FRAGMENTS) + data[to:]
        else:
            data = data[:at]
    return data


def mutation(dice: random.Random) -> tuple[str, bytes]:
    """A subject, below the pool's, and a message that once was valid there."""
    verb, body = dice.choice(sorted(VALID.items()))
    if dice.random() < 0.1:
        body = dice.choice(sorted(VALID.items()))[1]
    value: Any = body
    for _ in range(dice.randint(0, 3)):
        value = mutated_value(dice, value)
    data = json.dumps(value).encode()
    return verb, mutated_bytes(dice, data) if dice.random() < 0.5 else data


def code_of(message: Msg) -> str:
    """The code of the error that `message` is, else `answered`."""
    try:
        read_answer(message)
    except RefusedError as error:
        return error.code
    return "answered"


async def test_every_request_gets_exactly_one_answer(side: Wire) -> None:
    seed = os.environ.get("CONTRACT_FUZZ_SEED") or secrets.token_hex(4)
    print(f"CONTRACT_FUZZ_SEED={seed}")  # noqa: T201 - pytest shows it when the test fails
    dice = random.Random(seed)  # noqa: S311 - nothing secret is drawn
    inbox = side.nats.new_inbox()
    answers: dict[str, list[Msg]] = {}
    arrived = asyncio.Condition()

    async def take(message: Msg) -> None:
        async with arrived:
            answers[message.subject].append(message)
            arrived.notify_all()

    await side.nats.subscribe(f"{inbox}.*", cb=take)
    codes: Counter[str] = Counter()
    sent: dict[str, tuple[str, bytes]] = {}
    for round_number in range(ROUNDS):
        replies = [f"{inbox}.{round_number}-{n}" for n in range(AT_ONCE)]
        for reply in replies:
            verb, data = sent[reply] = mutation(dice)
            answers[reply] = []
            await side.nats.publish(f"{side.root}.{verb}", data, reply=reply)
            if dice.random() < 0.2:
                progress = mutated_bytes(dice, json.dumps(VALID["agent.stranger.complete"]).encode())
                await side.nats.publish(f"{side.root}.agent.{AGENT}.progress", progress)
        async with fail_after(lambda: f"not answered: {[sent[reply] for reply in replies if not answers[reply]]}"):  # noqa: B023 - told before the next round
            while not all(answers[reply] for reply in replies):
                async with arrived:
                    await arrived.wait()
    await side.round_trip()
    await side.round_trip()
    for reply, got in answers.items():
        assert len(got) == 1, (sent[reply], got)
        code = code_of(got[0])
        assert code != "internal", (sent[reply], got[0].data)
        codes[code] += 1
    # Agents that a mutated message has started would take the places of other tests.
    for agent in (await side.ask("agents.list", state="online"))["agents"]:
        await side.ask("agents.shutdown", agent_id=agent["agent_id"], grace_ms=5000)
    # It reached beyond the parser.
    assert codes["answered"] > 0
    assert codes["invalid_request"] > 0
    assert codes["task_not_found"] + codes["agent_not_found"] > 0
