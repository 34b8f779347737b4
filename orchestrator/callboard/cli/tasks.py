"""The commands that read, await and end tasks: get, list, wait, cancel, retry."""

from callboard.cli.connection import HERE, Connection, connected, run
from callboard.cli.exits import UsageError
from callboard.cli.output import print_json, print_line, print_note, print_table
from callboard.cli.values import DurationMs, PageSize, TaskId, Text
from callboard.schemas.vocabulary import TaskState


def get(
    task_id: TaskId | None = None, /, *, key: Text | None = None, json: bool = False, to: Connection = HERE
) -> None:
    """Show one task: its state, its attempts, its payload and result.

    Args:
        task_id: Which task.
        key: The idempotency key it was submitted with, instead of its id.
        json: Print the task as one JSON document.
        to: How the orchestrator is reached.
    """
    if (task_id is None) == (key is None):
        raise UsageError("give a task's id or --key, exactly one of them")

    async def ask() -> None:
        from callboard.cli.tasks_view import show_task  # noqa: PLC0415 - not needed for JSON

        async with connected(to) as client:
            task = await client.get(task_id, key=key, timeout_s=to.timeout_s)
        print_json(task) if json else show_task(task)

    run(ask())


def list_tasks(
    *,
    state: TaskState | None = None,
    type: str | None = None,  # noqa: A002 - the option's name
    agent: str | None = None,
    limit: PageSize | None = None,
    cursor: str | None = None,
    all: bool = False,  # noqa: A002 - the option's name
    json: bool = False,
    to: Connection = HERE,
) -> None:
    """List tasks, the newest first.

    Args:
        state: Only tasks in this state.
        type: Only tasks of this type.
        agent: Only tasks whose current or last attempt is this agent's.
        limit: How many for a page: 50 by default, at most 500; fewer where they are large.
        cursor: Go on where the page that printed this cursor ended.
        all: Go on to the last page; with --json one task per line.
        json: Print the page as one JSON document.
        to: How the orchestrator is reached.
    """

    async def ask() -> None:
        from callboard.cli.tasks_view import COLUMNS, row  # noqa: PLC0415 - not needed for JSON

        at, first = cursor, True
        async with connected(to) as client:
            while first or (all and at):
                page = await client.list(
                    state=state, type=type, agent_id=agent, limit=limit, cursor=at, timeout_s=to.timeout_s
                )
                if not json:
                    print_table(COLUMNS, map(row, page.tasks), header=first)
                elif all:
                    for task in page.tasks:
                        print_json(task)
                else:
                    print_json(page)
                at, first = page.cursor, False
        if at and not json:
            print_note(f"there are more: --cursor {at} or --all")

    run(ask())


def wait(
    task_id: TaskId,
    /,
    *,
    within: DurationMs | None = None,
    json: bool = False,
    to: Connection = HERE,
) -> int:
    """Wait until a task has ended, and print its result as JSON.

    The exit status is 0 when it succeeded, 1 when it ended otherwise, and 4
    when it had not ended within the time given.

    Args:
        task_id: Which task.
        within: How long to wait at most, e.g. 500ms, 10s, 5m; without it as long as it takes.
        json: Print the whole task instead of its result.
        to: How the orchestrator is reached.
    """
    from callboard.cli.follow import follow  # noqa: PLC0415 - see the module's rule in main.py

    async def ask() -> int:
        async with connected(to) as client:
            return await follow(client, task_id, within_ms=within, json=json, patience_s=to.timeout_s)

    return run(ask())


def cancel(task_id: TaskId, /, *, reason: str | None = None, json: bool = False, to: Connection = HERE) -> None:
    """Cancel a task that waits or runs.

    Args:
        task_id: Which task.
        reason: Why, for its agent and for whoever looks at it later.
        json: Print the answer as one JSON document.
        to: How the orchestrator is reached.
    """

    async def ask() -> None:
        async with connected(to) as client:
            answer = await client.cancel(task_id, reason=reason, timeout_s=to.timeout_s)
        if json:
            print_json(answer)
        else:
            print_line(f"{answer.task_id} {answer.state}" + ("" if answer.changed else " (already)"))

    run(ask())


def retry(task_id: TaskId, /, *, json: bool = False, to: Connection = HERE) -> None:
    """Submit a task that ended without success once more, as a new task; prints the new id.

    Asked twice, it is the same new task.

    Args:
        task_id: The task that failed, was cancelled, expired or quarantined.
        json: Print the answer as one JSON document.
        to: How the orchestrator is reached.
    """

    async def ask() -> None:
        async with connected(to) as client:
            answer = await client.retry(task_id, timeout_s=to.timeout_s)
        print_json(answer) if json else print_line(answer.task_id)

    run(ask())
