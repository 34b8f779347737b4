"""One typed question: encode, request, decode the answer or raise the error that came instead of it."""

from collections.abc import Mapping
from typing import Final, TypeVar

import msgspec

from callboard.bus.connection import Bus
from callboard.bus.messages import BusMessage
from callboard.schemas.codec import decode, encode
from callboard.schemas.errors import (
    ErrorAnswer,
    InternalError,
    InvalidRequestError,
    OrchestratorError,
    from_body,
)

ERROR_TEXT: Final = "Nats-Service-Error"
ERROR_CODE: Final = "Nats-Service-Error-Code"

M = TypeVar("M")

_ERROR: Final = msgspec.json.Decoder(ErrorAnswer)


async def ask(
    bus: Bus,
    subject: str,
    message: object,
    answer: type[M],
    *,
    timeout_s: float = 5.0,
    headers: Mapping[str, str] | None = None,
) -> M:
    """The answer to `message`.

    Raises:
        NoRespondersError: nobody listens to `subject`; nothing was accepted.
        OutcomeUnknownError: no answer within `timeout_s` seconds: ask again with the same key.
        InternalError: the answer is not an `answer`.
        OrchestratorError: what the answering side refused with (protocol, section 2).
    """
    return read_answer(await bus.request(subject, encode(message), timeout_s=timeout_s, headers=headers), answer)


def read_answer(message: BusMessage, answer: type[M]) -> M:
    """Decode what came back, for those who used `Bus.ask`; raises as `ask` does."""
    if message.headers and (ERROR_TEXT in message.headers or ERROR_CODE in message.headers):
        raise _error(message.data, message.headers)
    try:
        return decode(msgspec.json.Decoder(answer), message.data)
    except InvalidRequestError as error:
        raise InternalError(f"the answer is not understood: {error.message}", **error.details) from None


def _error(data: bytes, headers: Mapping[str, str]) -> OrchestratorError:
    """The error of the body; of the headers alone when somebody else answered."""
    try:
        return from_body(decode(_ERROR, data).error)
    except InvalidRequestError:
        text = headers.get(ERROR_TEXT, "").strip()
        return InternalError(f"refused without a reason: {headers.get(ERROR_CODE, '')} {text}".strip())
