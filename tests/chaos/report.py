"""What a run tells at its end."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from tests.chaos.checker import Violation, check_facts
from tests.chaos.figures import ends, extra_count, failovers_of, fault_counts, recoveries, summary

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.chaos.facts import Facts

SHOWN: Final = 20


def report(facts: Facts, *, errors: Mapping[str, int]) -> tuple[str, list[Violation]]:
    """The table, and the violations. `errors` are those that reached a user of the SDK, by code."""
    violations = check_facts(facts)
    return "\n".join(_lines(facts, errors, violations)), violations


def _lines(facts: Facts, errors: Mapping[str, int], violations: list[Violation]) -> Iterator[str]:
    counts = fault_counts(facts)
    yield ""
    yield "faults"
    for kind, count in sorted(counts.items()):
        yield f"  {kind:32} {count:6}"
    yield f"  {'all':32} {sum(counts.values()):6}"
    yield "tasks"
    for state, count in sorted(ends(facts).items()):
        yield f"  {state:32} {count:6}"
    starts = sum(len(story.starts) for story in facts.tasks.values())
    accepted = sum(1 for story in facts.tasks.values() if story.accepted)
    yield f"  {'accepted':32} {accepted:6}"
    yield f"  {'executions':32} {starts:6}"
    yield f"  {'extra executions':32} {extra_count(facts):6}"
    yield f"  {'submits without an answer':32} {facts.failed_submits:6}"
    yield f"errors that reached a user: {dict(errors) or 'none'}"
    yield f"fail-over (owner killed or stopped): {summary(failovers_of(facts))}"
    for side in ("Postgres", "database", "disk", "NATS", "bus"):
        yield f"first commit after {side:8} was back: {summary(recoveries(facts, side))}"
    by_rule = Counter(violation.rule for violation in violations)
    yield f"violations: {len(violations)}"
    for rule, count in by_rule.items():
        yield f"  {rule}: {count}"
    for violation in violations[:SHOWN]:
        yield f"  {violation.rule}: {violation.story}"
