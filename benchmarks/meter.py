"""What processes use, read from `/proc`: CPU time and peak memory of a process and all it started. Linux only.

Rules:
- CPU of a tree is the user and system time of its living processes, and of the ended ones that were waited for.
- Memory is the peak resident size; shared memory, which every Postgres process counts as its own, is counted once.
"""

import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

TICKS: Final = os.sysconf("SC_CLK_TCK")
KIB: Final = 1024


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU in seconds since the processes began, and their peak memory in bytes."""

    cpu_s: float
    peak_bytes: int


def tree(roots: Iterable[int]) -> list[int]:
    """The ids of the processes and their living descendants."""
    children: dict[int, list[int]] = defaultdict(list)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children[int(fields[1])].append(int(entry.name))
    found: list[int] = []
    todo = list(roots)
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo += children[pid]
    return found


def usage(roots: Iterable[int]) -> Usage:
    """What the trees below `roots` have used so far."""
    ticks = private = shared = 0
    for pid in tree(roots):
        fields = _stat(pid)
        status = _status(pid)
        if not fields or not status:
            continue  # it has ended
        # utime, stime, and those of children that were waited for (proc_pid_stat(5), counted from the state).
        ticks += sum(map(int, fields[11:15]))
        private += status.get("VmHWM", 0) - status.get("RssShmem", 0)
        shared = max(shared, status.get("RssShmem", 0))
    return Usage(ticks / TICKS, (private + shared) * KIB)


def _stat(pid: int) -> list[str]:
    """The fields from the state on: the name before may hold blanks."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _status(pid: int) -> dict[str, int]:
    """The lines in kB."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return {}
    rows = (line.split() for line in text.splitlines() if line.endswith(" kB"))
    return {row[0].rstrip(":"): int(row[1]) for row in rows}
