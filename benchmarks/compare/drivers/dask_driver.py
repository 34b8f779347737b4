"""dask distributed: a scheduler, one worker process, futures."""

import asyncio
import os
import sys
from pathlib import Path

from benchmarks.compare.drivers.seat import BULK, RESULT, Client, obey, work
from distributed import Client as DaskClient

ADDRESS = os.environ["SERVER_URL"]


class Dask(Client):
    """`submit` or `map`, then `result` or `gather`."""

    client: DaskClient

    def __init__(self) -> None:
        self.kept: list[object] = []

    async def open(self) -> None:
        self.client = await DaskClient(ADDRESS, asynchronous=True)

    async def run(self, text: str) -> str:
        return str(await self.client.submit(work, text, pure=False))

    async def submit(self, text: str) -> None:
        # A future that nobody holds is forgotten, and its task with it.
        self.kept.append(self.client.submit(work, text, pure=False))

    async def run_many(self, texts: list[str]) -> int:
        futures = self.client.map(work, texts, pure=False, batch_size=BULK)
        return sum(result == RESULT for result in await self.client.gather(futures))


def main() -> None:
    """`client`, or `worker`, or `server`: the scheduler."""
    if sys.argv[1] == "client":
        asyncio.run(obey(Dask()))
        return
    program = Path(sys.executable).with_name("dask")
    if sys.argv[1] == "server":
        arguments = ["scheduler", "--host", ADDRESS, "--no-dashboard", "--no-jupyter"]
    else:
        arguments = ["worker", ADDRESS, "--nthreads", "1", "--no-nanny", "--no-dashboard"]
        arguments += ["--host", "127.0.0.1"]
    os.execv(program, [str(program), *arguments])  # noqa: S606 - the process that the harness watches


if __name__ == "__main__":
    main()
