"""How fast this machine is now: a bare nats-py request-reply between two processes, and a one-row fsync commit.

Only ratios to these in the same run mean something from machine to machine, and from hour to hour on a shared host.

`python -m benchmarks.probe NATS_URL DATABASE_URL SECONDS` prints one JSON object; it starts the answering side itself.
"""

import asyncio
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, Final

import asyncpg
import nats
import uvloop
from nats.aio.client import Client as Nats
from nats.aio.msg import Msg

CALLERS: Final = 256
SUBJECT: Final = "bench.probe"
BODY: Final = b"x" * 200
ANSWER: Final = b"r" * 50
COMMITS: Final = 200
ALONE: Final = 300
WITHIN_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Speed:
    """What the machine can do.

    Attributes:
        trips_per_s: request-replies of 256 callers.
        trip_ms: one at a time, p50.
        commit_ms: one row, p50.
    """

    trips_per_s: float
    trip_ms: float
    commit_ms: float


async def measure_speed(nats_url: str, database_url: str, *, seconds: float, env: Mapping[str, str]) -> Speed:
    """The speed now, taken by a process of its own.

    Raises:
        RuntimeError: it failed.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.probe", nats_url, database_url, str(seconds),
        env=dict(env), cwd=Path(__file__).parents[1], stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(WITHIN_S + 3 * seconds):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise RuntimeError(f"the speed probe ended with {process.returncode}")
    return Speed(**json.loads(output))


async def _answer(nats_url: str) -> None:
    """The other side; until standard input ends."""
    connection = await nats.connect(nats_url)

    async def reply(message: Msg) -> None:
        await connection.publish(message.reply, ANSWER)

    await connection.subscribe(SUBJECT, cb=reply)
    await connection.flush()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()
    await connection.close()


async def _trips(connection: Nats, seconds: float) -> float:
    until = perf_counter() + seconds

    async def caller() -> int:
        done = 0
        while perf_counter() < until:
            await connection.request(SUBJECT, BODY, timeout=WITHIN_S)
            done += 1
        return done

    began = perf_counter()
    return sum(await asyncio.gather(*(caller() for _ in range(CALLERS)))) / (perf_counter() - began)


async def _alone_ms(connection: Nats) -> float:
    times: list[float] = []
    for _ in range(ALONE):
        began = perf_counter()
        await connection.request(SUBJECT, BODY, timeout=WITHIN_S)
        times.append(perf_counter() - began)
    return 1e3 * median(times)


async def _commit_ms(database_url: str) -> float:
    connection: Any = await asyncpg.connect(database_url)
    await connection.execute("CREATE TABLE IF NOT EXISTS bench_probe (id bigint, body text)")
    statement = await connection.prepare("INSERT INTO bench_probe VALUES ($1, $2)")
    times: list[float] = []
    for number in range(COMMITS):
        began = perf_counter()
        await statement.fetch(number, BODY.decode())
        times.append(perf_counter() - began)
    await connection.execute("DROP TABLE bench_probe")
    await connection.close()
    return 1e3 * median(times)


async def _ask(nats_url: str, database_url: str, seconds: float) -> Speed:
    other = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.probe", nats_url,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert other.stdin is not None  # noqa: S101 - both are pipes
    assert other.stdout is not None  # noqa: S101 - both are pipes
    await other.stdout.readline()
    connection = await nats.connect(nats_url)
    try:
        await _trips(connection, seconds / 4)  # warm-up
        alone = await _alone_ms(connection)
        return Speed(await _trips(connection, seconds), alone, await _commit_ms(database_url))
    finally:
        await connection.close()
        other.stdin.close()
        await other.wait()


def main() -> None:
    """The asking side, or with one argument the answering one."""
    if len(sys.argv) == 2:  # noqa: PLR2004 - see above
        uvloop.run(_answer(sys.argv[1]))
        return
    speed = uvloop.run(_ask(sys.argv[1], sys.argv[2], float(sys.argv[3])))
    sys.stdout.write(json.dumps(asdict(speed)))


if __name__ == "__main__":
    main()
