"""A task as people read it: one line of a list, or all of it."""

from typing import Final

from msgspec import Raw, UnsetType

from callboard.cli.output import ago, duration, print_fields, print_line, print_table
from callboard.schemas.tasks import Progress, Question, TaskDocument

COLUMNS: Final = ("TASK", "TYPE", "STATE", "PRIORITY", "ATTEMPT", "AGENT", "CREATED", "DESCRIPTION")
_DESCRIPTION: Final = 40


def row(task: TaskDocument) -> tuple[object, ...]:
    """The task's line, in the order of `COLUMNS`."""
    text = task.description or ""
    short = text if len(text) <= _DESCRIPTION else text[: _DESCRIPTION - 1] + "…"
    return (
        task.task_id,
        task.type,
        task.state,
        task.priority,
        task.attempt,
        task.agent_id,
        ago(task.created_at),
        short,
    )


def show_task(task: TaskDocument) -> None:
    """Everything about a task; absent fields are left out."""
    requires = task.requires
    print_fields(
        (
            ("task", task.task_id),
            ("type", task.type),
            ("state", task.state),
            ("reason", task.reason),
            ("until", task.until),
            ("priority", task.priority),
            ("description", task.description),
            ("key", task.key),
            ("metadata", task.metadata or None),
            ("role", requires.role if requires else None),
            ("for agent", requires.agent_id if requires else None),
            ("capabilities", (requires.capabilities or None) if requires else None),
            ("agent", task.agent_id),
            (
                "attempt",
                f"{task.attempt} (of at most {task.max_attempts} that may fail)" if task.max_attempts else None,
            ),
            ("created", task.created_at),
            ("started", task.started_at),
            ("finished", task.finished_at),
            ("retry of", task.retry_of),
            ("progress", progress_text(task.progress)),
            ("asks", question_text(task.question)),
            ("error", task.error.message if task.error else None),
            ("payload", _json_text(task.payload)),
            ("result", _json_text(task.result)),
        )
    )
    if task.attempts:
        print_line("")
        print_table(
            ("ATTEMPT", "AGENT", "OUTCOME", "TOOK", "ERROR"),
            (
                (
                    attempt.attempt,
                    attempt.agent_id,
                    attempt.outcome or str(task.state),
                    duration((attempt.ended_at - attempt.started_at).total_seconds() * 1000)
                    if attempt.ended_at
                    else None,
                    attempt.error.message if attempt.error else None,
                )
                for attempt in task.attempts
            ),
        )


def progress_text(progress: Progress | None) -> str | None:
    """`40% parsing`, with what of it there is."""
    if progress is None:
        return None
    percent = None if progress.percent is None else f"{progress.percent:.0f}%"
    return " ".join(part for part in (percent, progress.message) if part) or None


def question_text(question: Question | None) -> str | None:
    """`really? ["yes","no"] (question 2)`."""
    if question is None:
        return None
    parts = (question.prompt, _json_text(question.data), f"(question {question.query})")
    return " ".join(part for part in parts if part)


def _json_text(raw: Raw | UnsetType) -> str | None:
    return None if isinstance(raw, UnsetType) else bytes(raw).decode()
