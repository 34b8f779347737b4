"""Writes the generated parts of the documentation; `--check` only says whether they are fresh.

A generated part stands between `<!-- generated: NAME -->` and `<!-- end -->`, and is drawn from the code that it is
about: the transition table, the settings, the metrics, the subjects.
"""

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from callboard.agents.session.states import PHASES
from callboard.orchestrator.config import OrchestratorMode, settings_reference
from callboard.orchestrator.core.transitions import AGENT_MOVES, TASK_MOVES
from callboard.orchestrator.endpoints import endpoints_of
from callboard.orchestrator.metrics import Metrics
from callboard.schemas.errors import ERRORS
from callboard.schemas.subjects import Subjects

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


def agent_states() -> str:
    """What is believed of an agent, as a Mermaid diagram."""
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> starting: spawned or registering"]
    for state, targets in AGENT_MOVES.items():
        lines += [f"    {state} --> {target}" for target in sorted(targets)]
    return "\n".join([*lines, "    offline --> [*]: forgotten", "    stopped --> [*]: forgotten", "```"])


def session_phases() -> str:
    """An agent's own side, as a Mermaid diagram."""
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {next(iter(PHASES))}"]
    for phase, causes in PHASES.items():
        lines += [f"    {phase} --> {target}: {cause}" for cause, target in causes.items()]
        if not causes:
            lines.append(f"    {phase} --> [*]")
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


class _Anybody:
    """Stands for the handlers, of which the list of endpoints only takes references."""

    subjects = Subjects("<pool>")

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - a handler, never called
        return lambda *_: name


def subjects() -> str:
    """Every subject that is served, sent to or published on."""
    anybody: Any = _Anybody()
    rows = [
        f"| `{endpoint.subject.replace('*', '<agent_id>')}` | {endpoint.description} |"
        for endpoint in endpoints_of(anybody, anybody, anybody, anybody, anybody)
    ]
    at = _Anybody.subjects
    sent = {
        at.to_agent("<agent_id>", "assign"): "An offer to an agent",
        at.to_agent("<agent_id>", "cancel"): "Stop an attempt",
        at.to_agent("<agent_id>", "drain"): "Take nothing new",
        at.to_agent("<agent_id>", "shutdown"): "Finish, leave, exit",
        f"{at.root}.event.task.<state>.<task_id>": "Published: a committed change of a task",
        f"{at.root}.event.agent.<state>.<agent_id>": "Published: a change of an agent",
        at.owner_event: "Published: who owns the pool",
        "$SRV.{PING,INFO,STATS}": "Discovery: `nats micro ls`, `info`, `stats`, `ping`",
    }
    rows += [f"| `{subject}` | {meaning} |" for subject, meaning in sent.items()]
    return "\n".join(["| subject | meaning |", "|---|---|", *rows])


PARTS: dict[str, Callable[[], str]] = {
    "task_states": task_states,
    "agent_states": agent_states,
    "session_phases": session_phases,
    "settings": settings,
    "metrics": metrics,
    "errors": errors,
    "subjects": subjects,
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
