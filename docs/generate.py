"""Writes the generated parts of the documentation; `--check` only says whether they are fresh.

A generated part stands between `<!-- generated: NAME -->` and `<!-- end -->`, and is drawn from the code that it is
about: the transition table, the settings, the metrics, the subjects.
"""

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from callboard.orchestrator.config import OrchestratorMode, settings_reference
from callboard.orchestrator.core.transitions import TASK_MOVES
from callboard.orchestrator.metrics import Metrics
from callboard.schemas.errors import ERRORS

DOCS = Path(__file__).parent
PART = re.compile(r"<!-- generated: (?P<name>\w+) -->\n.*?<!-- end -->", re.DOTALL)


def task_states() -> str:
    """The life of a task as a Mermaid diagram."""
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> queued: submitted", "    [*] --> deferred: submitted"]
    for state, moves in TASK_MOVES.items():
        lines += [f"    {state} --> {target}: {move}" for move, target in moves.items()]
        if not moves:
            lines.append(f"    {state} --> [*]")
    return "\n".join([*lines, "```"])


def settings() -> str:
    """Every setting, with its type, default by mode and meaning."""
    rows = [
        f"| `{row.name}` | {_cell(row.type)} | {_defaults(row.defaults)} | {_cell(row.meaning)} |"
        for row in settings_reference()
    ]
    return "\n".join(["| setting | type | default | meaning |", "|---|---|---|---|", *rows])


def metrics() -> str:
    """Every metric, with its kind, labels and meaning."""
    rows = [
        f"| `{metric.name}` | {metric.type} | {metric.documentation} |"
        for metric in sorted(Metrics().registry.collect(), key=lambda metric: metric.name)
    ]
    return "\n".join(["| metric | kind | meaning |", "|---|---|---|", *rows])


def errors() -> str:
    """Every error of the wire and the class that the library raises."""
    rows: list[str] = []
    for code, error in ERRORS.items():
        retryable = "yes" if error.retryable else "no"
        message = (error.__doc__ or "").partition("\n")[0]
        rows.append(f"| {error.number} | `{code}` | `{error.__name__}` | {retryable} | {message} |")
    return "\n".join(["| number | code | class | retryable | message |", "|---|---|---|---|---|", *rows])


PARTS: dict[str, Callable[[], str]] = {
    "task_states": task_states,
    "settings": settings,
    "metrics": metrics,
    "errors": errors,
}


def _defaults(defaults: Mapping[OrchestratorMode, str]) -> str:
    """One text where all modes agree, else each mode's."""
    if len(set(defaults.values())) == 1:
        return _cell(next(iter(defaults.values())))
    return "; ".join(f"{mode}: {_cell(text)}" for mode, text in defaults.items())


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|")


def refreshed(text: str) -> str:
    """`text` with its generated parts drawn anew."""
    return PART.sub(lambda found: f"<!-- generated: {found['name']} -->\n{PARTS[found['name']]()}\n<!-- end -->", text)


def main() -> int:
    """Write, or with `--check` compare; the exit status."""
    check = "--check" in sys.argv[1:]
    stale = [page for page in sorted(DOCS.glob("*.md")) if refreshed(page.read_text()) != page.read_text()]
    for page in stale:
        if not check:
            page.write_text(refreshed(page.read_text()))
        sys.stdout.write(f"{'stale' if check else 'written'}: {page.name}\n")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
