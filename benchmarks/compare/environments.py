"""The peers' virtual environments: made on demand below `build/peers`, from one file of pinned versions each.

An environment is whole when its copy of that file is the same; it is made anew when the file changes.
"""

import asyncio
import shutil
import sys
from pathlib import Path
from typing import Final

from benchmarks.bed import REPOSITORY, clean_environment

REQUIREMENTS: Final = Path(__file__).parent / "requirements"
ENVIRONMENTS: Final = REPOSITORY / "build" / "peers"
INSTALL_WITHIN_S: Final = 900.0


class NotInstalledError(Exception):
    """A peer's packages cannot be had: the last line of pip."""


async def python_of(name: str | None) -> Path:
    """The interpreter of the environment `name`, installed if need be; ours for `None`.

    Raises:
        NotInstalledError: pip failed.
    """
    if name is None:
        return Path(sys.executable)
    wanted = REQUIREMENTS / f"{name}.txt"
    place = ENVIRONMENTS / name
    stamp = place / "requirements.txt"
    python = place / "bin" / "python"
    if stamp.exists() and stamp.read_bytes() == wanted.read_bytes():
        return python
    shutil.rmtree(place, ignore_errors=True)
    await _run(sys.executable, "-m", "venv", str(place))
    await _run(str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(wanted))
    shutil.copyfile(wanted, stamp)
    return python


async def _run(*command: str) -> None:
    # pip may be steered by the machine's own configuration, but not by Python's variables.
    process = await asyncio.create_subprocess_exec(
        *command, env=clean_environment(), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(INSTALL_WITHIN_S):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        lines = output.decode(errors="replace").strip().splitlines() or ["it wrote nothing"]
        raise NotInstalledError(f"{' '.join(command[1:3])}: {lines[-1]}")
