"""From a task to a prompt, and from the chunks of an answer to a result."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from callboard.agents.errors import TaskFailed
from callboard.agents.synadia.wire import Response, write_envelope

MOST_BYTES: Final = 8 * 1024 * 1024
"""Of an answer's text and attachments; far more than any orchestrator takes as a result, and bounded."""
TAIL: Final = 200
"""Characters of the answer so far that are shown as progress."""


def envelope_of(payload: object, description: str | None) -> dict[str, Any]:
    """The prompt of a task.

    Text is the prompt; an object with a `prompt` is the envelope as it is, attachments and all; of anything else the
    description is the prompt, with the payload as JSON below it.

    Raises:
        TaskFailed: there is nothing to say.
    """
    if isinstance(payload, Mapping) and isinstance(payload.get("prompt"), str):
        envelope = dict(payload)
    elif isinstance(payload, str):
        envelope = {"prompt": payload}
    else:
        data = None if payload is None else msgspec.json.encode(payload).decode()
        envelope = {"prompt": "\n\n".join(part for part in (description, data) if part)}
    if not envelope["prompt"].strip():
        raise TaskFailed(
            "the task has no prompt: give it a payload or a description", type="no_prompt", retryable=False
        )
    return envelope


def prompt_bytes(envelope: Mapping[str, Any], *, max_payload: int | None, attachments_ok: bool) -> bytes:
    """The message of an envelope, within what its agent takes (section 5.4).

    Raises:
        TaskFailed: it is not within that; another attempt would make it no smaller.
    """
    if envelope.get("attachments") and not attachments_ok:
        raise TaskFailed("the agent takes no attachments", type="attachments_refused", retryable=False)
    data = write_envelope(envelope)
    if max_payload is not None and len(data) > max_payload:
        what = f"the prompt has {len(data)} bytes; the agent takes {max_payload}"
        raise TaskFailed(what, type="prompt_too_large", retryable=False)
    return data


def answer_bytes(answer: object) -> bytes:
    """The reply to a query: text as it is, an envelope as one, all else as JSON."""
    if isinstance(answer, str) and answer and not answer.lstrip().startswith("{"):
        return answer.encode(errors="replace")
    if isinstance(answer, Mapping) and isinstance(answer.get("prompt"), str):
        return write_envelope(answer)
    text = answer if isinstance(answer, str) else msgspec.json.encode(answer).decode()
    return write_envelope({"prompt": text})


class Answer:
    """An answer as it comes."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._attachments: list[dict[str, Any]] = []
        self._size = 0
        self.tail = ""
        """The end of the text so far."""

    def take(self, piece: Response) -> None:
        """One more piece.

        Raises:
            TaskFailed: the answer is longer than anybody could keep.
        """
        self._size += len(piece.text) + sum(len(each["content"]) for each in piece.attachments)
        if self._size > MOST_BYTES:
            what = f"the answer has more than {MOST_BYTES} bytes"
            raise TaskFailed(what, type="answer_too_large", retryable=False)
        self._texts.append(piece.text)
        self._attachments += piece.attachments
        self.tail = (self.tail + piece.text)[-TAIL:]

    def result(self) -> dict[str, Any]:
        """The task's result: all of the text, and the attachments if there are any."""
        text = "".join(self._texts)
        return {"text": text, "attachments": self._attachments} if self._attachments else {"text": text}
