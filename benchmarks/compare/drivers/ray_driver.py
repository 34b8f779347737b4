"""Ray: a head node with one CPU, so one worker process; plain tasks. Its worker is started by the head node."""

import asyncio
import os
import sys
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.compare.drivers.seat import BULK, RESULT, BlockingClient, obey, work

# Ray takes the machine's outer address unless it is told that there is no cluster: all traffic stays on loopback.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"

import ray

ADDRESS = urlsplit(os.environ["SERVER_URL"]).netloc


@ray.remote(num_cpus=1, max_retries=3)
def noop(text: str) -> str:
    """The task."""
    return work(text)


class Ray(BlockingClient):
    """`remote`, then `get`, which takes a list."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[object] = []

    async def open(self) -> None:
        variables = {name: os.environ[name] for name in ("PYTHONPATH", "BENCH_LEDGER") if name in os.environ}
        ray.init(address=ADDRESS, log_to_driver=False, runtime_env={"env_vars": variables})

    def run_blocking(self, text: str) -> str:
        return str(ray.get(noop.remote(text)))

    def submit_blocking(self, text: str) -> None:
        self.kept.append(noop.remote(text))

    def run_many_blocking(self, texts: list[str]) -> int:
        done = 0
        for at in range(0, len(texts), BULK):
            done += sum(each == RESULT for each in ray.get([noop.remote(text) for text in texts[at : at + BULK]]))
        return done


def main() -> None:
    """`client`, or `server`: the head node."""
    if sys.argv[1] == "client":
        asyncio.run(obey(Ray()))
        return
    program = Path(sys.executable).with_name("ray")
    host, _, port = ADDRESS.partition(":")
    arguments = ["start", "--head", "--block", "--num-cpus", "1", "--node-ip-address", host, "--port", port]
    arguments += ["--include-dashboard", "false", "--disable-usage-stats", "--temp-dir", os.environ["SERVER_DIR"]]
    os.execv(program, [str(program), *arguments])  # noqa: S606 - the process that the harness watches


if __name__ == "__main__":
    main()
