"""What there is to do: the standard library's modules, and the tasks that each of them makes.

Every module is measured as text and as a syntax tree, every package gets a checksum. What others import first is
measured first: packages' checksums, then modules of the top level, of packages, and what is private or an encoding.
"""

import os
import sysconfig
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from callboard.demo.work import Measured, checksum, measure_syntax, measure_text
from callboard.schemas.errors import ConfigurationError
from callboard.schemas.vocabulary import TaskPriority

LARGE_BYTES: Final = 24 * 1024
LARGE: Final = "large"
"""The capability for the syntax trees of modules of `LARGE_BYTES` and more; all else requires its type's name."""
TOP_LEVEL: Final = "(top level)"
"""Stands for the package of the modules that are in none."""
_TESTS: Final = frozenset({"idle_test", "test", "tests"})


class Kind(StrEnum):
    """A task's type."""

    TEXT = "text"
    SYNTAX = "syntax"
    CHECKSUM = "checksum"


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """A source file of the standard library; `name` as it is imported, `size` in bytes."""

    name: str
    file: Path
    size: int

    @property
    def package(self) -> str:
        """The outermost package that it is in."""
        is_package = self.file.name == "__init__.py"
        return self.name.partition(".")[0] if is_package or "." in self.name else TOP_LEVEL


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One task: what to measure of which module or package."""

    kind: Kind
    name: str
    package: str
    files: tuple[Path, ...]
    priority: TaskPriority
    capability: str

    @property
    def payload(self) -> str:
        """The files' paths, one on each line."""
        return "\n".join(map(str, self.files))

    def measure(self) -> Measured:
        """The result that the task must have, made here and now."""
        sources = [file.read_bytes() for file in self.files]
        if self.kind is Kind.CHECKSUM:
            return checksum(sources)
        measure = measure_text if self.kind is Kind.TEXT else measure_syntax
        return measure(sources[0])

    def __str__(self) -> str:
        return f"{self.kind} of {self.name}"


def find_modules(most: int | None = None) -> list[Module]:
    """The modules of the standard library less its tests; only the `most` largest when a number is given.

    Raises:
        ConfigurationError: there are none, or `most` is below 1.
    """
    if most is not None and most < 1:
        raise ConfigurationError(f"--modules must be at least 1, not {most}")
    root = Path(sysconfig.get_path("stdlib"))
    modules = list(_modules_below(root))
    if not modules:
        raise ConfigurationError(f"this Python has no source of its standard library in {root}")
    return sorted(modules, key=lambda module: -module.size)[:most]


def make_jobs(modules: Sequence[Module]) -> list[Job]:
    """The tasks of these modules, in the order of their names: the order of work is the orchestrator's business."""
    packages: defaultdict[str, list[Path]] = defaultdict(list)
    jobs: list[Job] = []
    for module in sorted(modules, key=lambda module: module.name):
        packages[module.package].append(module.file)
        jobs += (_job(kind, module) for kind in (Kind.TEXT, Kind.SYNTAX))
    jobs += (
        Job(
            kind=Kind.CHECKSUM,
            name=name,
            package=name,
            files=tuple(files),
            priority=TaskPriority.CRITICAL,
            capability=Kind.CHECKSUM,
        )
        for name, files in packages.items()
    )
    return jobs


def count_by_kind(jobs: Iterable[Job]) -> dict[Kind, int]:
    """How many tasks of each kind."""
    counts = dict.fromkeys(Kind, 0)
    for job in jobs:
        counts[job.kind] += 1
    return counts


def _job(kind: Kind, module: Module) -> Job:
    return Job(
        kind=kind,
        name=module.name,
        package=module.package,
        files=(module.file,),
        priority=_priority(module),
        capability=LARGE if kind is Kind.SYNTAX and module.size >= LARGE_BYTES else kind,
    )


def _modules_below(root: Path) -> Iterator[Module]:
    for folder, folders, files in os.walk(root):
        # What is no identifier cannot be imported from here: `site-packages`, for one.
        folders[:] = [name for name in folders if name.isidentifier() and name not in _TESTS]
        package = Path(folder).relative_to(root).parts
        for name, suffix in map(os.path.splitext, files):
            if suffix == ".py" and name.isidentifier():
                parts = package if name == "__init__" else (*package, name)
                file = Path(folder, name + suffix)
                yield Module(name=".".join(parts), file=file, size=file.stat().st_size)


def _priority(module: Module) -> TaskPriority:
    if module.package == "encodings" or any(part.startswith("_") for part in module.name.split(".")):
        return TaskPriority.LOW
    return TaskPriority.HIGH if module.package == TOP_LEVEL else TaskPriority.NORMAL
