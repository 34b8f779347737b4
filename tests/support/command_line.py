"""`callboard` as scripts see it: a real process, its exit status, its standard output and standard error."""

import asyncio
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Finished:
    status: int
    out: str
    err: str


@dataclass(frozen=True)
class CommandLine:
    """Runs `callboard` in a process of its own, whose environment holds nothing of ours but what is given."""

    home: Path
    env: dict[str, str]

    async def start(
        self, *arguments: str, stdout: int = subprocess.PIPE, stderr: int = subprocess.PIPE
    ) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            # The installed entry point, beside the interpreter that runs the tests.
            Path(sys.executable).with_name("callboard"),
            *arguments,
            env={"PATH": os.environ["PATH"], "HOME": str(self.home), **self.env},
            cwd=self.home,
            stdin=subprocess.PIPE,
            stdout=stdout,
            stderr=stderr,
        )

    async def __call__(self, *arguments: str, stdin: bytes = b"") -> Finished:
        process = await self.start(*arguments)
        async with asyncio.timeout(60):
            out, err = await process.communicate(stdin)
        assert process.returncode is not None
        return Finished(process.returncode, out.decode(), err.decode())


def assert_one_line_of_error(finished: Finished, status: int, *words: str) -> None:
    assert (finished.status, finished.out) == (status, "")
    assert finished.err.startswith("callboard: ")
    assert finished.err.count("\n") == 1
    for word in words:
        assert word in finished.err
