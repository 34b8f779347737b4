"""What every client process does alike: JSON lines in, JSON lines out, and the loops that measure.

Rules:
- Standard library only: it runs in the virtual environment of each system.
- A task is no work: its payload is 200 bytes, its number first, and its result is 50 bytes.
- `run` is submit and read the result. A *caller* runs one task after the other; concurrency is the number of callers.
- Times are taken here, in the client, by the monotonic clock; answers carry seconds and milliseconds.
- Standard output belongs to the protocol: what libraries print there goes to standard error.
"""

import asyncio
import itertools
import json
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

Given = TypeVar("Given")
Found = TypeVar("Found")

PAYLOAD_BYTES = 200
RESULT = "r" * 50
MOST_CALLERS = 256
BULK = 1_000
"""Tasks in one bulk call."""


def payload(number: int) -> str:
    """200 bytes that begin with the task's number."""
    return f"{number}:".ljust(PAYLOAD_BYTES, "x")


def work(text: str) -> str:
    """The task: nothing, but its number is noted when the harness wants to count what survived."""
    ledger = os.environ.get("BENCH_LEDGER")
    if ledger:
        with open(ledger, "a", encoding="ascii") as file:  # noqa: PTH123 - as plain as it gets: a line in one write
            file.write(text.partition(":")[0] + "\n")
    return RESULT


class Numbers:
    """The tasks that the callers share: up to `most`, and none after `seconds`. Threads may share it."""

    def __init__(self, most: int, seconds: float) -> None:
        self._next = itertools.count()
        self._most = most
        self._until = time.monotonic() + seconds

    def __iter__(self) -> "Numbers":
        return self

    def __next__(self) -> int:
        number = next(self._next)
        if number >= self._most or time.monotonic() >= self._until:
            raise StopIteration
        return number


class Client(ABC):
    """A system's client; each driver has one."""

    @abstractmethod
    async def open(self) -> None:
        """Connect."""

    @abstractmethod
    async def run(self, text: str) -> str:
        """Submit one task and read its result."""

    @abstractmethod
    async def submit(self, text: str) -> None:
        """Submit one task; returns when the system has acknowledged it."""

    @abstractmethod
    async def run_many(self, texts: list[str]) -> int:
        """Submit by the system's bulk call, up to `BULK` tasks in one, and read all results; their number."""

    async def call(self, numbers: Numbers) -> list[float]:
        """One caller: tasks one after the other; the latency of each in seconds."""
        latencies: list[float] = []
        for number in numbers:
            began = time.perf_counter()
            check(await self.run(payload(number)))
            latencies.append(time.perf_counter() - began)
        return latencies

    async def close(self) -> None:  # noqa: B027 - most have nothing to do: the process ends
        """Disconnect."""


class BlockingClient(Client):
    """A client whose calls block: every caller is a thread."""

    def __init__(self) -> None:
        self.threads = ThreadPoolExecutor(MOST_CALLERS + 1)

    @abstractmethod
    def run_blocking(self, text: str) -> str:
        """As `run`."""

    @abstractmethod
    def submit_blocking(self, text: str) -> None:
        """As `submit`."""

    @abstractmethod
    def run_many_blocking(self, texts: list[str]) -> int:
        """As `run_many`."""

    async def _in_thread(self, call: Callable[[Given], Found], given: Given) -> Found:
        return await asyncio.get_running_loop().run_in_executor(self.threads, call, given)

    async def run(self, text: str) -> str:
        return await self._in_thread(self.run_blocking, text)

    async def submit(self, text: str) -> None:
        await self._in_thread(self.submit_blocking, text)

    async def run_many(self, texts: list[str]) -> int:
        return await self._in_thread(self.run_many_blocking, texts)

    async def call(self, numbers: Numbers) -> list[float]:
        return await self._in_thread(self._call_blocking, numbers)

    def _call_blocking(self, numbers: Numbers) -> list[float]:
        latencies: list[float] = []
        for number in numbers:
            began = time.perf_counter()
            check(self.run_blocking(payload(number)))
            latencies.append(time.perf_counter() - began)
        return latencies


def check(result: str) -> None:
    """A benchmark of wrong results is none."""
    if result != RESULT:
        raise RuntimeError(f"a wrong result: {result!r}")


async def one_by_one(client: Client, tasks: int, callers: int, seconds: float) -> dict[str, Any]:
    """Closed loop: `callers` at once, each submits and reads the result; at most `tasks`, at most `seconds`."""
    numbers = Numbers(tasks, seconds)
    began = time.perf_counter()
    latencies = await asyncio.gather(*(client.call(numbers) for _ in range(callers)))
    spent = time.perf_counter() - began
    return {"done": sum(map(len, latencies)), "seconds": spent, "ms": [1e3 * each for one in latencies for each in one]}


async def bulk(client: Client, tasks: int) -> dict[str, Any]:
    """All `tasks` by the bulk call; until the last result is read."""
    texts = [payload(number) for number in range(tasks)]
    began = time.perf_counter()
    done = await client.run_many(texts)
    return {"done": done, "seconds": time.perf_counter() - began}


async def open_loop(client: Client, rate: float, seconds: float) -> dict[str, Any]:
    """A task every 1 / `rate` seconds whatever came of those before; latency counts from when it was due."""
    began = time.perf_counter()
    latencies: list[float] = []

    async def one(number: int, due: float) -> None:
        check(await client.run(payload(number)))
        latencies.append(time.perf_counter() - due)

    async with asyncio.TaskGroup() as group:
        for number in range(max(1, int(rate * seconds))):
            due = began + number / rate
            early = due - time.perf_counter()
            if early > 0:
                await asyncio.sleep(early)
            group.create_task(one(number, due))
    return {"done": len(latencies), "seconds": time.perf_counter() - began, "ms": [1e3 * each for each in latencies]}


async def submit(client: Client, tasks: int) -> dict[str, Any]:
    """Only submit; how many were acknowledged."""
    for number in range(tasks):
        await client.submit(payload(number))
    return {"done": tasks}


Orders = dict[str, Callable[..., Awaitable[dict[str, Any]]]]


async def obey(client: Client) -> None:
    """Open, answer orders, close."""
    await client.open()
    measurements: Orders = {"one_by_one": one_by_one, "bulk": bulk, "open_loop": open_loop, "submit": submit}
    await answer({name: partial(measurement, client) for name, measurement in measurements.items()})
    await client.close()


async def answer(orders: Orders) -> None:
    """Carry orders out, one JSON object a line, until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        order = json.loads(line)
        try:
            found = await orders[order.pop("order")](**order)
        except Exception as error:  # noqa: BLE001 - the harness reports it as the reason
            found = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(found) + "\n")
        answers.flush()
