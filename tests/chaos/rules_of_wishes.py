"""The rules about what may be wished for beside plain tasks: retries, results of a client's own, capabilities, pauses,
progress, answers to questions, and late results.

Each rule reads the facts once and yields a line for each violation.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import Final

from tests.chaos.facts import FINAL, HELD, Facts
from tests.chaos.rules_of_tasks import CLIENTS_RESULT

Stories = Iterator[str]

GIVEN_UP: Final = frozenset({"crashed", "timed_out", "undelivered", "released"})
WAITING: Final = frozenset({"queued", "deferred"})


def a_retry_is_one_task(facts: Facts) -> Stories:
    """A retry is of a task that ended without success before, and however often it is asked for, it is one task."""
    retries: dict[str, set[str]] = defaultdict(set)
    for story in facts.tasks.values():
        if story.rows and (origin := story.rows[0].retry_of) is not None:
            retries[origin].add(story.task_id)
            final = facts.tasks[origin].final if origin in facts.tasks else None
            if final is None or final.state == "succeeded" or final.at_ns > story.rows[0].at_ns:
                yield f"{story.task_id} is a retry of {origin}, which is {final.state if final else 'not final'}"
        if story.retries:
            retries[story.task_id] |= story.retries
    for origin, found in retries.items():
        if len(found) > 1:
            yield f"{origin} has the retries {sorted(found)}"


def a_client_may_finish_a_task(facts: Facts) -> Stories:
    """A result of a client's own is there if it was asked for, and is what ends the task if the answer says so."""
    for story in facts.tasks.values():
        final = story.final
        is_clients = final is not None and final.state == "succeeded" and final.result == CLIENTS_RESULT
        if final is not None and is_clients and (story.completing_ns is None or story.completing_ns > final.at_ns):
            yield f"{story.task_id} has a client's result, and no client had finished it"
        for completed in story.completed:
            if final is None or final.state != "succeeded" or final.at_ns > completed.at_ns:
                yield f"{story.task_id} was said to have succeeded, and is {final.state if final else 'not final'}"
            elif completed.changed and not is_clients:
                yield f"{story.task_id} was said to have its client's result, and has {final.result}"


def requirements_are_kept(facts: Facts) -> Stories:
    """Nobody is given a task that asks for what it has not."""
    for story in facts.tasks.values():
        for row in story.rows:
            life = facts.lives.get((row.agent_id or "", row.incarnation or ""))
            if row.state in HELD and life is not None and not set(row.requires) <= set(life.capabilities):
                yield f"{story.task_id} requires {row.requires}, and was given to {row.agent_id}"


def nothing_is_given_out_in_a_pause(facts: Facts) -> Stories:
    """From the commit of a pause to the wish to end it, what is paused stays where it is."""
    attempts: Counter[str] = Counter()
    for transaction in facts.transactions.values():
        for row in transaction.rows:
            is_given = row.op != "delete" and row.state in HELD and row.attempt > attempts[row.task_id]
            attempts[row.task_id] = row.attempt
            if is_given and any(pause.must_hold(row.type, row.at_ns) for pause in facts.pauses):
                yield f"{row.task_id} of type {row.type} was given out in a pause"


def progress_is_of_who_ran(facts: Facts) -> Stories:
    """What is kept as a task's progress was said in an attempt that was begun, by the one who had begun it."""
    for story in facts.tasks.values():
        begun = {(start.attempt, start.agent_id, start.incarnation): start.at_ns for start in story.starts}
        for row in story.rows:
            if row.progress is None:
                continue
            task_id, attempt, agent_id, incarnation = row.progress
            began_ns = begun.get((attempt, agent_id, incarnation))
            if task_id != story.task_id or attempt > row.attempt or began_ns is None or began_ns > row.at_ns:
                yield f"{story.task_id}/{row.attempt} has the progress {row.progress}, of nobody who had begun it"


def answers_are_of_their_question(facts: Facts) -> Stories:
    """A handler hears once what was answered to its own attempt, and that after the answer is committed."""
    for story in facts.tasks.values():
        heard: Counter[int] = Counter()
        for event in story.heard:
            what = f"{story.task_id}/{event.attempt}"
            heard[event.attempt] += 1
            said_ns = story.answering_ns.get(event.attempt)
            if event.answer != what or said_ns is None or said_ns > event.at_ns:
                yield f"{what} heard {event.answer!r}, which nobody had said to it"
            elif heard[event.attempt] > 1:
                yield f"{what} heard its answer {heard[event.attempt]} times"
            elif not any(
                asked.state == "waiting_input" and asked.attempt == event.attempt and after.at_ns <= event.at_ns
                for asked, after in pairwise(story.rows)
            ):
                yield f"{what} heard its answer before the commit"


def late_results_are_taken_where_they_are_wanted(facts: Facts) -> Stories:
    """A given-up attempt succeeds after all only where the pool wants it, as the latest one, and while nobody has the
    task."""
    for story in facts.tasks.values():
        for (attempt, outcome), row in story.ended_as.items():
            end, given_up = story.ends[attempt]
            if end.outcome == outcome:
                continue
            # Where both are written at once, that it waited in between is not to be seen.
            before = "queued" if given_up is row else story.rows[story.rows.index(row) - 1].state
            if not facts.adopts:
                yield f"{story.task_id}/{attempt} was {end.outcome}, and {outcome} after that"
            elif end.outcome not in GIVEN_UP or outcome != "succeeded" or row.state not in FINAL:
                yield f"{story.task_id}/{attempt} was {end.outcome}, and then {outcome}"
            elif attempt != row.attempt or before not in WAITING:
                yield f"{story.task_id}/{attempt} succeeded late, and the task was {before} in attempt {row.attempt}"


WISH_RULES: Final = (
    a_retry_is_one_task,
    a_client_may_finish_a_task,
    requirements_are_kept,
    nothing_is_given_out_in_a_pause,
    progress_is_of_who_ran,
    answers_are_of_their_question,
    late_results_are_taken_where_they_are_wanted,
)
