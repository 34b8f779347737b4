"""Waiting for a task, as `wait` and `submit --wait` do: a progress bar on a terminal, then its result.

Without a terminal on standard error nothing is drawn. What is waited for goes on when the wait is interrupted.
"""

import asyncio
import sys
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING

from msgspec import UnsetType

from callboard.bus.client import Client, failure_of
from callboard.cli.exits import ExitStatus
from callboard.cli.output import plain, print_json, print_line, print_note
from callboard.cli.tasks_view import question_text
from callboard.schemas.errors import OutcomeUnknownError, UnavailableError
from callboard.schemas.tasks import TaskDocument
from callboard.schemas.vocabulary import TaskState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


async def follow(client: Client, task_id: str, *, within_ms: int | None, json: bool, patience_s: float) -> int:
    """Wait for a task and print its result (or, as `json`, all of it); the exit status says how it ended.

    Raises:
        TaskFailedError: it ended without success.
        OutcomeUnknownError: it had not ended within `within_ms`, or the wait broke off.
    """
    within_s = None if within_ms is None else within_ms / 1000
    try:
        if sys.stderr.isatty():
            task = await _watch(client, task_id, within_s, patience_s)
        else:
            task = await client.wait(task_id, timeout_s=within_s, patience_s=patience_s)
    except asyncio.CancelledError:
        print_note(f"the task goes on; see: callboard wait {task_id}")
        raise
    except (UnavailableError, OutcomeUnknownError) as error:
        # What was not sent is one more question about the task; the task itself was accepted long ago.
        reason = error.message.removesuffix(": nothing was sent")
        goes_on = f"the task goes on; see: callboard wait {task_id}"
        raise OutcomeUnknownError(f"the wait for task {task_id} broke off: {reason}; {goes_on}") from None
    if not task.state.is_final:
        raise OutcomeUnknownError(f"task {task_id} is {task.state} and goes on; see: callboard wait {task_id}")
    if json:
        print_json(task)
    if task.state is not TaskState.SUCCEEDED:
        raise failure_of(task)
    if not json:
        print_line("null" if isinstance(task.result, UnsetType) else bytes(task.result).decode())
    return ExitStatus.OK


async def _watch(client: Client, task_id: str, within_s: float | None, patience_s: float) -> TaskDocument:
    """The task as it was seen last: final, unless the time was over first."""
    task = await client.get(task_id, timeout_s=patience_s)
    asked = 0
    try:
        async with (
            _bar() as show,
            aclosing(client.watch(task_id, patience_s=patience_s)) as changes,
            asyncio.timeout(within_s),
        ):
            async for task in changes:
                show(task)
                asked = _note_question(task, asked)
    except TimeoutError:
        return task
    return task


def _note_question(task: TaskDocument, asked: int) -> int:
    """Say once what is asked, and how to answer; the number of the last question that was said."""
    question = task.question
    if question is None or question.query == asked:
        return asked
    print_note(f"{plain(question_text(question) or '')}; answer with: callboard answer {task.task_id} ...")
    return question.query


@asynccontextmanager
async def _bar() -> "AsyncIterator[Callable[[TaskDocument], None]]":
    """A progress bar on standard error that disappears at the end.

    The agent and its message stand below the bar: beside it they would be cut, and with them the agent's id.
    """
    from rich.console import Console, Group  # noqa: PLC0415 - only on a terminal
    from rich.live import Live  # noqa: PLC0415 - only on a terminal
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415 - only on a terminal
    from rich.text import Text  # noqa: PLC0415 - only on a terminal

    progress = Progress(TextColumn("{task.fields[state]}"), BarColumn(), TimeElapsedColumn())
    bar = progress.add_task("", total=None, state="waiting")
    below = Text(overflow="fold")
    with Live(Group(progress, below), console=Console(stderr=True), transient=True) as live:

        def show(task: TaskDocument) -> None:
            percent = task.progress.percent if task.progress else None
            message = plain(task.progress.message) if task.progress and task.progress.message else ""
            agent = f"on {task.agent_id}" if task.agent_id else ""
            below.plain = " ".join(part for part in (agent, message) if part)
            total = None if percent is None else 100.0
            progress.update(bar, completed=percent or 0.0, total=total, state=str(task.state))
            live.refresh()

        yield show
