"""Fills the tables of `docs/performance.md` from `results/*.json`; `--check` only says whether they are fresh.

A part stands between `<!-- measured: NAME -->` and `<!-- end of NAME -->`. The files are what `--json` of the
benchmarks wrote, committed together with the page.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
from benchmarks.compare.results import Report
from benchmarks.compare.table import tables
from benchmarks.limits.limit import Limits
from benchmarks.scale import Scale
from benchmarks.tables import machine_row, markdown

PAGE: Final = Path(__file__).parents[1] / "docs" / "performance.md"
RESULTS: Final = Path(__file__).parent / "results"
PART: Final = re.compile(r"<!-- measured: (?P<name>\w+) -->\n.*?<!-- end of (?P=name) -->", re.DOTALL)


def _compare(data: bytes) -> str:
    report = msgspec.json.decode(data, type=Report)
    return markdown([machine_row(report.machine), *tables(report)])


def _limits(data: bytes) -> str:
    report = msgspec.json.decode(data, type=Limits)
    return markdown([machine_row(report.machine), report.table()])


def _scale(data: bytes) -> str:
    report = msgspec.json.decode(data, type=Scale)
    return markdown([machine_row(report.machine), *report.tables()])


PARTS: Final[dict[str, Callable[[bytes], str]]] = {"compare": _compare, "limits": _limits, "scale": _scale}


def refreshed(text: str) -> str:
    """`text` with its parts drawn anew; one without results says so."""

    def draw(found: re.Match[str]) -> str:
        name = found["name"]
        file = RESULTS / f"{name}.json"
        body = PARTS[name](file.read_bytes()) if file.exists() else "No results are committed."
        return f"<!-- measured: {name} -->\n{body}\n<!-- end of {name} -->"

    return PART.sub(draw, text)


def main() -> int:
    """Write, or with `--check` compare; the exit status."""
    text = PAGE.read_text(encoding="utf-8")
    if refreshed(text) == text:
        return 0
    check = "--check" in sys.argv[1:]
    if not check:
        PAGE.write_text(refreshed(text), encoding="utf-8")
    sys.stdout.write(f"{'stale' if check else 'written'}: {PAGE.name}\n")
    return int(check)


if __name__ == "__main__":
    sys.exit(main())
