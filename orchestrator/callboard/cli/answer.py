"""The command that answers what an agent asks."""

import msgspec

from callboard.cli.connection import HERE, Connection, connected, run
from callboard.cli.exits import UsageError
from callboard.cli.output import print_json, print_line
from callboard.cli.values import Ordinal, TaskId, Text
from callboard.schemas.errors import InvalidTransitionError


def answer(
    task_id: TaskId,
    text: Text | None = None,
    /,
    *,
    value: Text | None = None,
    attempt: Ordinal | None = None,
    query: Ordinal | None = None,
    json: bool = False,
    to: Connection = HERE,
) -> None:
    """Answer what a task's agent asks: the task goes on.

    The tasks that wait for an answer are shown by callboard list --state
    waiting_input, and what one of them asks by callboard get.

    Args:
        task_id: Which task.
        text: The answer, as text.
        value: The answer as JSON, instead of text.
        attempt: The attempt that asked; by default the one at hand.
        query: The number of the question; by default the one that is open.
        json: Print the answer of the orchestrator as one JSON document.
        to: How the orchestrator is reached.
    """
    if (text is None) == (value is None):
        raise UsageError("give the answer as text or with --value, exactly one of them")
    given: object = text
    if value is not None:
        try:
            given = msgspec.json.decode(value)
        except msgspec.DecodeError as error:
            raise UsageError(f"--value: not JSON: {error}") from None

    async def ask() -> None:
        async with connected(to) as client:
            try:
                change = await client.answer(task_id, given, attempt=attempt, query=query, timeout_s=to.timeout_s)
            except InvalidTransitionError as error:
                where = "what asks is shown by: callboard list --state waiting_input"
                raise InvalidTransitionError(f"{error.message} ({where})", **error.details) from None
        if json:
            print_json(change)
        else:
            print_line(f"{change.task_id} {change.state}" + ("" if change.changed else " (already answered)"))

    run(ask())
