"""A working directory for one run: new, empty, for this user only, and gone afterwards.

Below the system's directory for temporary files (`TMPDIR`), where those that a killed agent leaves are looked for.
"""

import asyncio
import os
import shutil
import stat
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import structlog

from callboard.agents.errors import TaskFailed

log = structlog.get_logger("callboard.agents")


@asynccontextmanager
async def fresh_directory(task_id: str) -> AsyncIterator[str]:
    """The path of a new directory, removed with all that is in it when the block ends.

    Raises:
        TaskFailed: none can be made, of type `cannot_start`.
    """
    try:
        path = tempfile.mkdtemp(prefix=f"callboard-{task_id}-")
    except OSError as error:
        raise TaskFailed(f"cannot make a working directory: {error}", type="cannot_start") from None
    try:
        yield path
    finally:
        # In a thread, since there may be much in it; to its end, whoever cancels the task once more.
        removal = asyncio.create_task(asyncio.to_thread(_remove, path))
        await asyncio.shield(removal)


def _remove(path: str) -> None:
    try:
        shutil.rmtree(path)
    except OSError:
        _unlock(path)
        try:
            shutil.rmtree(path)
        except OSError as error:
            log.warning("a working directory could not be removed", path=path, why=str(error))


def _unlock(path: str) -> None:
    """A directory without the permission to write or enter keeps what is in it."""
    Path(path).chmod(stat.S_IRWXU)
    for directory, below, _ in os.walk(path):
        for inner in (Path(directory, name) for name in below):
            # Not what a link leads to: that is somebody else's.
            if not inner.is_symlink():
                inner.chmod(stat.S_IRWXU)
