"""From a task to the chunks that its caller gets: pure."""

from collections.abc import Iterator
from typing import Any, Final

import msgspec
from msgspec import UnsetType

from callboard.agents.synadia.wire import Query, Response
from callboard.schemas.tasks import Progress, Question, TaskDocument

_FRAME: Final = 256
"""More bytes than a chunk has around its text."""
_WIDEST: Final = 6
"""Bytes of a character in JSON, at most."""
_SHOWN: Final = 400


def result_chunks(result: Any, most_bytes: int) -> Iterator[Response]:  # noqa: ANN401 - any JSON value
    """A result as text, in pieces that fit into messages of `most_bytes`.

    Text is itself; an object with `text` is that text, with its `attachments` if they fit; all else is JSON.
    """
    attachments: tuple[dict[str, Any], ...] = ()
    if isinstance(result, dict) and isinstance(result.get("text"), str):
        text, found = result["text"], result.get("attachments")
        attachments = tuple(each for each in found if _is_attachment(each)) if isinstance(found, list) else ()
    else:
        text = result if isinstance(result, str) else msgspec.json.encode(result).decode()
    step = max(1, (most_bytes - _FRAME) // _WIDEST)
    for start in range(0, len(text), step):
        yield Response(text[start : start + step])
    for attachment in attachments:
        if len(attachment["content"]) + _WIDEST * len(attachment["filename"]) + _FRAME <= most_bytes:
            yield Response("", (attachment,))


def _is_attachment(value: object) -> bool:
    match value:
        case {"filename": str(), "content": str()}:
            return True
        case _:
            return False


def status_of(task: TaskDocument) -> str:
    """Where a task is, in a line: `running 40% parsing`."""
    return " ".join(part for part in (task.state.value, _progress_of(task.progress)) if part)[:_SHOWN]


def _progress_of(progress: Progress | None) -> str:
    if progress is None:
        return ""
    percent = "" if progress.percent is None else f"{progress.percent:.0f}%"
    return " ".join(part for part in (percent, progress.message or "") if part)


def query_of(task: TaskDocument, question: Question, reply_subject: str) -> Query:
    """The question of a task's agent; choices stand below it."""
    name = f"{task.task_id}/{task.attempt}/{question.query}"
    data = None if isinstance(question.data, UnsetType) else msgspec.json.decode(question.data)
    choices = [str(each) for each in data if isinstance(each, str | int | float)] if isinstance(data, list) else []
    return Query(name, reply_subject, "\n- ".join((question.prompt, *choices)))


def answer_of(envelope: dict[str, Any]) -> Any:  # noqa: ANN401 - any JSON value
    """What a caller replied: text, or all of an envelope that has more than that."""
    return envelope["prompt"] if set(envelope) == {"prompt"} else envelope
