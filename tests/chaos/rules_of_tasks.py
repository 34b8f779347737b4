"""The rules about a single task: what was promised of it, and what became of it.

Each rule reads the facts once and yields a line for each violation.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tests.chaos.facts import FINAL, HELD, Facts
from tests.chaos.history import End, Reporting, Row, Submitted

Stories = Iterator[str]

MOVES: Final[dict[str, frozenset[str]]] = {
    "queued": frozenset({"assigned", "succeeded", "cancelled", "expired"}),
    "deferred": frozenset({"queued", "succeeded", "cancelled", "expired"}),
    "assigned": frozenset({"running", "waiting_input", "queued", "deferred", *FINAL}),
    "running": frozenset({"waiting_input", "queued", "deferred", *FINAL}),
    "waiting_input": frozenset({"running", "queued", "deferred", *FINAL}),
    **dict.fromkeys(FINAL, frozenset[str]()),
}
"""Written down from the protocol's pages once more, by hand: an oracle must not be what it judges."""

POISON_CRASHES: Final = 3
POISON_AGENTS: Final = 2
SAID_BY_AGENT: Final = frozenset({"succeeded", "failed", "declined"})
COSTLY: Final = frozenset({"failed", "timed_out", "crashed"})
CLIENTS_RESULT: Final = '"by its client"'
"""What a client finishes a task with, which no agent does."""
LONGEST_PATH: Final = 40
"""So many moves of one task in one transaction are followed; nothing does more."""


def nothing_is_lost(facts: Facts) -> Stories:
    """What a client was told is accepted is in the database, and ends."""
    for story in facts.tasks.values():
        if story.accepted and not story.rows:
            yield f"{story.task_id} was accepted and is nowhere in the database"
        elif story.accepted and story.final is None:
            yield f"{story.task_id} was accepted and never ended: it is {story.rows[-1].state}"


def nothing_is_invented(facts: Facts) -> Stories:
    """What is in the database was asked for before by a client: as a submit of its key, or as a retry."""
    for story in facts.tasks.values():
        if not story.rows:
            continue
        first = story.rows[0]
        if first.retry_of is not None:
            origin = facts.tasks.get(first.retry_of)
            asked_ns = None if origin is None else origin.retrying_ns
        else:
            asked_ns = None if first.key is None else facts.asked.get(first.key)
        if asked_ns is None or asked_ns > first.at_ns:
            yield f"{story.task_id} is there, and nobody had asked for key {first.key}, retry of {first.retry_of}"


def a_key_has_one_task(facts: Facts) -> Stories:
    """However often a key is submitted, it is one task, for the database and in every answer."""
    first: dict[str, str] = {}
    for story in facts.tasks.values():
        keys = {row.key for row in story.rows[:1] if row.key is not None} | {
            one.key for one in story.accepted if isinstance(one, Submitted)
        }
        for key in sorted(keys):
            other = first.setdefault(key, story.task_id)
            if other != story.task_id:
                yield f"key {key} has two tasks, {other} and {story.task_id}"


def final_is_final(facts: Facts) -> Stories:
    """Nothing is written after a final state, and every client sees that very state."""
    for story in facts.tasks.values():
        final = story.final
        if final is None:
            continue
        after = story.rows[story.rows.index(final) + 1 :]
        if after:
            yield f"{story.task_id} was {final.state}, and is written again as {after[0].state}"
        for seen in story.seen:
            if seen.state in FINAL and seen.state != final.state:
                yield f"{story.task_id} is {final.state}, and a client was told {seen.state}"


def the_current_attempt_has_the_result(facts: Facts) -> Stories:
    """The accepted result is that of the last attempt, from the agent and incarnation that it was given to."""
    for story in facts.tasks.values():
        final = story.final
        if final is None or final.state != "succeeded" or final.result == CLIENTS_RESULT:
            continue
        given = next((row for row in reversed(story.rows) if row.state in HELD), final)
        who = (final.attempt, final.agent_id, final.incarnation)
        if (given.attempt, given.agent_id, given.incarnation) != who:
            yield f"{story.task_id} was given as {given.attempt} to {given.agent_id}, and succeeded as {who}"
        elif final.result != result_of(final):
            yield f"{story.task_id} succeeded as {who} with the result {final.result}"
        elif not any(_is_result(report, final) for report in story.reports):
            yield f"{story.task_id} succeeded as {who}, which had not reported it"


def result_of(row: Row) -> str:
    """What the handler of the attempt in `row` returns, as JSON."""
    return f'["{row.task_id}",{row.attempt},"{row.agent_id}","{row.incarnation}"]'


def _is_result(report: Reporting, row: Row) -> bool:
    is_same = (report.attempt, report.agent_id, report.incarnation) == (row.attempt, row.agent_id, row.incarnation)
    return is_same and report.verb == "complete" and report.at_ns <= row.at_ns


def attempts_rise_by_one(facts: Facts) -> Stories:
    """Attempts are numbered without a gap, and each has its end before the next begins."""
    for story in facts.tasks.values():
        ended = 0
        for row in story.rows:
            ended = max([ended, *(end.attempt for end in row.ends)])
            if row.attempt != ended + (row.state in HELD):
                yield f"{story.task_id} is {row.state} in attempt {row.attempt}, and {ended} have ended"
        if list(story.ends) != list(range(1, ended + 1)):
            yield f"{story.task_id} ended its attempts in the order {list(story.ends)}"


def every_end_has_its_cause(facts: Facts) -> Stories:
    """An attempt succeeds or fails because its own agent said so, and is declined because that declined it."""
    for story in facts.tasks.values():
        said: dict[tuple[str, int, str], int] = {}
        for report in story.reports:
            outcome = "succeeded" if report.verb == "complete" else "failed"
            said.setdefault((outcome, report.attempt, report.agent_id), report.at_ns)
        for answer in story.answers:
            if not answer.accepted:
                said.setdefault(("declined", answer.attempt, answer.agent_id), answer.at_ns)
        for end, row in story.ends.values():
            cause_ns = said.get((end.outcome, end.attempt, end.agent_id))
            if end.outcome in SAID_BY_AGENT and (cause_ns is None or cause_ns > row.at_ns):
                yield f"{story.task_id}/{end.attempt} of {end.agent_id} ended as {end.outcome}, and it had not said so"


def budgets_are_kept(facts: Facts) -> Stories:
    """Failures, time-outs and crashes are counted, everything else is free, and no task has more than it may."""
    for story in facts.tasks.values():
        ends: dict[int, End] = {}
        for row in story.rows:
            ends |= {end.attempt: end for end in row.ends}
            spent = sum(end.outcome in COSTLY for end in ends.values())
            if spent > row.max_attempts:
                yield f"{story.task_id} spent {spent} of {row.max_attempts} attempts"
            if row.spent is not None and row.spent != spent:
                yield f"{story.task_id} has {row.spent} attempts on its bill, and {spent} that cost"
            crashed = [end.agent_id for end in ends.values() if end.outcome == "crashed"]
            if row.crashes is not None and row.crashes != len(crashed):
                yield f"{story.task_id} has {row.crashes} crashes on its bill, and {len(crashed)} in its attempts"
            is_poison = len(crashed) >= POISON_CRASHES and len(set(crashed)) >= POISON_AGENTS
            if (row.state == "quarantined") != (is_poison and ends[max(ends)].outcome == "crashed"):
                yield f"{story.task_id} is {row.state} after crashes on {crashed}"
            if row.state == "failed" and spent < row.max_attempts:
                yield f"{story.task_id} failed with {spent} of {row.max_attempts} attempts spent"


def moves_are_legal(facts: Facts) -> Stories:
    """A task goes from state to state as the protocol's table allows; a version counts the moves of one write."""
    for story in facts.tasks.values():
        state, version = {"queued", "deferred"}, 1
        for row in story.rows:
            reached = state
            for _ in range(min(row.version - version, LONGEST_PATH)):
                reached = {target for source in reached for target in MOVES[source]}
            if row.state not in reached or row.version < version:
                yield f"{story.task_id} goes from {sorted(state)} to {row.state}, version {version} to {row.version}"
            state, version = {row.state}, row.version


def answers_follow_the_commit(facts: Facts) -> Stories:
    """`recorded`, an accepted submit, a cancellation and an offer are said only of what is committed."""
    for story in facts.tasks.values():
        first = story.rows[0].at_ns if story.rows else None
        for accepted in story.accepted:
            if first is not None and accepted.at_ns < first:
                yield f"{story.task_id} was accepted before its commit"
        for recorded in story.recorded:
            outcome = "succeeded" if recorded.verb == "complete" else "failed"
            ended = story.ended_as.get((recorded.attempt, outcome))
            if ended is None or ended.at_ns > recorded.at_ns:
                yield f"{story.task_id}/{recorded.attempt} was recorded as {outcome} before its commit"
        given = {row.attempt: row.at_ns for row in reversed(story.rows) if row.state in HELD}
        for offered in story.offers:
            if given.get(offered.attempt, offered.at_ns + 1) > offered.at_ns:
                yield f"{story.task_id}/{offered.attempt} was offered to {offered.agent_id} before its commit"


def nothing_is_accepted_after_the_end(facts: Facts) -> Stories:
    """What was cancelled stays so, and no report is recorded for a task that ended otherwise."""
    for story in facts.tasks.values():
        final = story.final
        for cancelled in story.cancelled:
            if final is None or final.state != "cancelled" or final.at_ns > cancelled.at_ns:
                yield f"{story.task_id} was said to be cancelled, and is {final.state if final else 'not final'}"
        for recorded in story.recorded:
            is_other = final is not None and (
                (final.state, final.attempt) != ("succeeded", recorded.attempt) or final.result == CLIENTS_RESULT
            )
            if recorded.verb == "complete" and final is not None and is_other:
                yield f"{story.task_id}/{recorded.attempt} was recorded, and the task is {final.state}"


TASK_RULES: Final = (
    nothing_is_lost,
    nothing_is_invented,
    a_key_has_one_task,
    final_is_final,
    the_current_attempt_has_the_result,
    attempts_rise_by_one,
    every_end_has_its_cause,
    budgets_are_kept,
    moves_are_legal,
    answers_follow_the_commit,
    nothing_is_accepted_after_the_end,
)
