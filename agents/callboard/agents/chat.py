"""What is said to a chat endpoint and what it says, without the connection in between.

- A payload is a prompt, or an object with `messages` and further fields of the request, which are passed on unread.
  The model and the way of answering are the agent's to choose, not the task's.
- An answer comes whole or in chunks; of several choices none was asked for, so only the first is read.
- An answer in chunks has ended when it gave a reason for it or said `[DONE]`; one that just stops is no answer.
"""

from typing import Any, Final

import msgspec

from callboard.agents.errors import TaskFailed
from callboard.agents.templates import refused
from callboard.schemas.codec import encode
from callboard.schemas.limits import RESULT_BYTES

DONE: Final = "[DONE]"
TAIL_CHARACTERS: Final = 1_000
"""How much of the text so far is told as progress: its end."""

_OURS: Final = ("model", "stream", "stream_options", "n")
_PASSING: Final = frozenset({401, 408, 425, 429})
"""Statuses that are not the task's fault. The first is the key's: an agent with a wrong one is to be quarantined, which
failures that are final would not do, and not to spoil the whole queue."""


class ChatResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a task ends with; `usage` as the server counts it. The last two only where the model said such."""

    text: str
    model: str
    finish_reason: str | None
    usage: dict[str, Any] | None
    refusal: str | None = None
    tool_calls: list[dict[str, Any]] | None = None


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _Function = msgspec.field(default_factory=_Function)


class _Message(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Message | None = None
    message: _Message | None = None
    finish_reason: str | None = None


class _Answer(msgspec.Struct):
    choices: list[_Choice] | None = None
    model: str | None = None
    usage: dict[str, Any] | None = None
    error: Any = None


_DECODER: Final = msgspec.json.Decoder(_Answer)


def request_body(payload: object, model: str, *, stream: bool) -> bytes:
    """The request for a task.

    Raises:
        TaskFailed: the payload is neither a prompt nor has messages, or it chooses what is not its to choose.
    """
    if isinstance(payload, str) and payload:
        payload = {"messages": [{"role": "user", "content": payload}]}
    if not isinstance(payload, dict) or not isinstance(payload.get("messages"), list) or not payload["messages"]:
        raise refused("the payload is no prompt: give a text, or an object with messages")
    taken = [name for name in _OURS if name in payload]
    if taken:
        raise refused(f"the payload must not set {', '.join(taken)}: the agent does")
    ours: dict[str, Any] = {"model": model, "stream": stream}
    if stream:
        ours["stream_options"] = {"include_usage": True}
    return encode({**payload, **ours})


class Reply:
    """An answer that is put together.

    Attributes:
        tail: the end of the text so far.
        is_done: the server said that nothing more comes.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self._texts: list[str] = []
        self._refusals: list[str] = []
        self._calls: dict[int, dict[str, Any]] = {}
        self._finish_reason: str | None = None
        self._usage: dict[str, Any] | None = None
        self._room = RESULT_BYTES
        self._is_whole = False
        self.tail = ""
        self.is_done = False

    def take(self, data: str | bytes) -> None:
        """A chunk, or the whole.

        Raises:
            TaskFailed: of type `invalid_answer`, `server_error` or `output_too_large`.
        """
        if data == DONE:
            self.is_done = True
            return
        try:
            answer = _DECODER.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise TaskFailed(f"the answer is none of a chat endpoint: {error}", type="invalid_answer") from None
        if answer.error is not None:
            raise server_error(answer.error)
        self._model = answer.model or self._model
        self._usage = answer.usage or self._usage
        for choice in answer.choices or ():
            if choice.index == 0:
                self._take(choice)

    def result(self) -> ChatResult:
        """All of it.

        Raises:
            TaskFailed: it has not ended, of type `incomplete`.
        """
        if not (self._is_whole or self.is_done):
            raise TaskFailed("the answer stopped before its end", type="incomplete")
        return ChatResult(
            text="".join(self._texts),
            model=self._model,
            finish_reason=self._finish_reason,
            usage=self._usage,
            refusal="".join(self._refusals) or None,
            tool_calls=list(self._calls.values()) or None,
        )

    def _take(self, choice: _Choice) -> None:
        said = choice.delta or choice.message or _Message()
        if said.content:
            self._texts.append(self._counted(said.content))
            self.tail = (self.tail + said.content)[-TAIL_CHARACTERS:]
        if said.refusal:
            self._refusals.append(self._counted(said.refusal))
        for call in said.tool_calls or ():
            self._take_call(call)
        self._finish_reason = choice.finish_reason or self._finish_reason
        if choice.message or choice.finish_reason:
            self._is_whole = True

    def _take_call(self, part: _ToolCall) -> None:
        """The name of a call comes once, its arguments in pieces; without a number each is a call of its own."""
        number = len(self._calls) if part.index is None else part.index
        if number not in self._calls:
            self._calls[number] = {"id": None, "type": "function", "function": {"name": "", "arguments": ""}}
            self._counted(encode(self._calls[number]).decode())
        call = self._calls[number]
        if part.id and part.id != call["id"]:
            call["id"] = self._counted(part.id)
        call["function"]["name"] += self._counted(part.function.name or "")
        call["function"]["arguments"] += self._counted(part.function.arguments or "")

    def _counted(self, text: str) -> str:
        self._room -= len(text.encode())
        if self._room < 0:
            message = f"the answer is longer than {RESULT_BYTES} bytes"
            raise TaskFailed(message, type="output_too_large", retryable=False)
        return text


def is_retryable(status: int) -> bool:
    """Whether another attempt may get another answer: the server's own errors, time-outs, limits of rate, a bad key."""
    return status >= 500 or status in _PASSING  # noqa: PLR2004 - HTTP's server errors


def server_error(error: object) -> TaskFailed:
    """What a server says under `error` in the midst of an answer; its `code` may be a status."""
    code = error.get("code") if isinstance(error, dict) else None
    retryable = not isinstance(code, int) or is_retryable(code)
    return TaskFailed(f"the server broke off: {error_text(error)}", type="server_error", retryable=retryable)


def error_text(error: object) -> str:
    """The message of an error, in whatever form it comes."""
    if isinstance(error, dict) and isinstance(error.get("message"), str):
        return str(error["message"])
    return error if isinstance(error, str) else encode(error).decode()
