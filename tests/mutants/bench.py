"""Where mutants are made and looked at: a copy of the sources for each, and processes that import from there."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from tests.mutants.mutant import SEEDS, Mutant

ROOT: Final = Path(__file__).parents[2]
PORTIONS: Final = ("agents", "bus", "orchestrator", "schemas")
COPIED: Final = (*PORTIONS, "tests", "pyproject.toml")
LONGEST_S: Final = 240
_SEED: Final = re.compile(r"^seed (\d+): (.*)$", re.MULTILINE)
_FAILED: Final = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)
_NO_TESTS_FAILED: Final = 0
_TESTS_FAILED: Final = 1


class BenchError(Exception):
    """A process neither passed nor found anything: the mutant, or the bench, is broken."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one mutant.

    Attributes:
        test: the first test that failed.
        seeds: how many schedules it took to break a rule.
        rule: which.
        took_s: seconds, altogether.
    """

    test: str | None
    seeds: int | None
    rule: str | None
    took_s: float

    def settles(self, mutant: Mutant) -> bool:
        """Whether everybody noticed who has to."""
        return (self.test is not None or not mutant.tests) and (self.seeds is not None or not mutant.simulated)


@contextmanager
def copied() -> Iterator[Path]:
    """A copy of the sources."""
    with TemporaryDirectory(prefix="callboard-mutant-") as name:
        root = Path(name)
        for part in COPIED:
            source = ROOT / part
            if source.is_dir():
                shutil.copytree(source, root / part, ignore=shutil.ignore_patterns("node_modules", "target"))
            else:
                shutil.copy2(source, root / part)
        yield root


def examine(mutant: Mutant, *, everywhere: bool = False) -> Finding:
    """Make the mutant and let its tests and the simulation look at it.

    Args:
        mutant: which.
        everywhere: let the simulation look at it though it need not notice.

    Raises:
        PatchError: it cannot be made.
        BenchError: nobody could look at it.
    """
    began_s = time.monotonic()
    with copied() as root:
        mutant.apply(root)
        test = failed_test(root, mutant.tests) if mutant.tests else None
        broken = broken_rule(root) if mutant.simulated or everywhere else None
    seeds, rule = broken or (None, None)
    return Finding(test, seeds, rule, time.monotonic() - began_s)


def failed_test(root: Path, tests: tuple[str, ...]) -> str | None:
    """The first of these tests that fails in the copy."""
    command = ("pytest", "-x", "-q", "-p", "no:cacheprovider", "--no-header", "--tb=no", "--timeout=60", *tests)
    code, output = _run(root, *command)
    if code == _NO_TESTS_FAILED:
        return None
    found = _FAILED.search(output)
    if code != _TESTS_FAILED or found is None:
        raise BenchError(output[-2_000:])
    return found[1].removeprefix("tests/")


def broken_rule(root: Path) -> tuple[int, str] | None:
    """After how many seeds the simulation finds something in the copy, and what."""
    code, output = _run(root, "tests.simulation", "--seeds", str(SEEDS), "--cores", "1", "--no-shrink")
    if code == 0:
        return None
    found = _SEED.search(output)
    if found is None:
        raise BenchError(output[-2_000:])
    return int(found[1]) + 1, found[2]


def _run(root: Path, module: str, *arguments: str) -> tuple[int, str]:
    """Run a module of the copy; its portions come before those that are installed."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(root / portion) for portion in PORTIONS)}
    command = [sys.executable, "-m", module, *arguments]
    try:
        done = subprocess.run(
            command, cwd=root, env=environment, capture_output=True, text=True, timeout=LONGEST_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"{module} took longer than {LONGEST_S} s") from error
    return done.returncode, done.stdout + done.stderr
