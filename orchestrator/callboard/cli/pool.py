"""The commands about the pool itself: pool pause, pool resume."""

from callboard.cli.connection import HERE, Connection, connected, run
from callboard.cli.output import print_json, print_line, print_note
from callboard.cli.values import Text
from callboard.schemas.pools import PoolChange


def pause(*, type: Text | None = None, json: bool = False, to: Connection = HERE) -> None:  # noqa: A002 - the option's name
    """Have nothing assigned, or no task of a type, until `pool resume`; what runs goes on. Survives restarts.

    Args:
        type: Only tasks of this type; else the whole pool.
        json: Print the answer as one JSON document.
        to: How the orchestrator is reached.
    """

    async def ask() -> None:
        async with connected(to) as client:
            _show(await client.pause(type, timeout_s=to.timeout_s), json=json)

    run(ask())


def resume(*, type: Text | None = None, json: bool = False, to: Connection = HERE) -> None:  # noqa: A002 - the option's name
    """End a pause of the whole pool, or of a type; the two are apart.

    Args:
        type: Only tasks of this type; else the whole pool.
        json: Print the answer as one JSON document.
        to: How the orchestrator is reached.
    """

    async def ask() -> None:
        async with connected(to) as client:
            _show(await client.unpause(type, timeout_s=to.timeout_s), json=json)

    run(ask())


def _show(change: PoolChange, *, json: bool) -> None:
    if json:
        print_json(change)
        return
    what = f"{change.pool} {change.type}" if change.type else change.pool
    print_line(f"{what} {change.state}")
    if not change.changed:
        print_note("it was so already")
