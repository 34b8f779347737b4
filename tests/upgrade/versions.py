"""Programs of other versions, taken from the repository's history, to run beside the one that is being tested."""

from __future__ import annotations

import os
import subprocess
import tarfile
from io import BytesIO
from typing import TYPE_CHECKING, Final

from tests.support.processes import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

MIGRATIONS: Final = "orchestrator/callboard/orchestrator/store/migrations/versions"
PORTIONS: Final = ("schemas", "bus", "orchestrator", "agents")
"""The folders that hold the portions of the namespace `callboard`."""


def before(revision: str, next_revision: str, directory: Path) -> str:
    """Write the last version whose schema is `revision` into `directory`; the `PYTHONPATH` that runs it.

    Raises:
        AssertionError: the history is not here, as in a shallow clone: the test cannot be made, which is no success.
    """
    text = f'revision = "{next_revision}"'
    [migration] = [
        file.name for file in (REPOSITORY / MIGRATIONS).glob("*.py") if text in file.read_text().splitlines()
    ]
    added = _git("log", "--diff-filter=A", "--format=%H", "--", f"{MIGRATIONS}/{migration}").decode().split()
    assert added, (
        f"the commit that brought {migration} is not known: this test runs the version of schema {revision} from the "
        "history, which a shallow clone does not have; run: git fetch --unshallow"
    )
    with tarfile.open(fileobj=BytesIO(_git("archive", f"{added[-1]}^", *PORTIONS))) as archive:
        archive.extractall(directory, filter="data")
    return os.pathsep.join(str(directory / portion) for portion in PORTIONS)


def _git(*arguments: str) -> bytes:
    done = subprocess.run(["git", *arguments], cwd=REPOSITORY, capture_output=True, check=False)  # noqa: S607 - whichever git made this clone
    assert done.returncode == 0, f"git {' '.join(arguments)}: {done.stderr.decode()}"
    return done.stdout
