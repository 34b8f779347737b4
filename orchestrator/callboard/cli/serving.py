"""What the commands that are agents share: who they are, and serving until they are interrupted."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from cyclopts import Group, Parameter

from callboard.cli.connection import Connection, connected, options_of, run
from callboard.cli.values import Names, Slots, parse_label, parse_pairs

if TYPE_CHECKING:
    from callboard.bus.options import BusOptions


@Parameter(name="*", group=Group("Agent", sort_key=0))
@dataclass(frozen=True, kw_only=True)
class AgentOptions:
    """The options that every command has that is an agent."""

    capability: Names = None
    """What this agent can do; may be repeated."""
    type: Names = None
    """Take only tasks of this type; may be repeated; all types by default."""
    agent_id: str | None = None
    """This agent's id; a new one by default."""
    role: str | None = None
    """This agent's role."""
    slots: Slots | None = None
    """How many tasks it runs at once; 1 by default."""
    label: Names = None
    """A label, name=value; may be repeated."""


SOMEBODY: Final = AgentOptions()
"""Nothing given: what a spawned agent's `CALLBOARD_` variables say."""


class Served(Protocol):
    """An agent that can be run."""

    async def run(self, url: "str | BusOptions | None" = None) -> None:
        """Serve until drained, shut down or stopped."""


def serve(make: Callable[..., Served], who: AgentOptions, to: Connection) -> None:
    """Run the agent that `make` makes of the arguments that all agents have.

    Raises:
        UsageError: an option cannot be used.
        ConfigurationError: as `make`, or as the agent's `run`.
    """
    labels = {name: parse_label(value) for name, value in parse_pairs(who.label, "--label").items()}
    common: dict[str, Any] = {
        "agent_id": who.agent_id,
        "capabilities": who.capability,
        "role": who.role,
        "slots": who.slots,
        "labels": labels or None,
        "pool": to.pool,
        "prefix": to.prefix,
        "task_types": who.type or ("*",),
    }
    serve_with(lambda: make(**common), to)


def serve_with(make: Callable[[], Served], to: Connection) -> None:
    """Run what `make` makes, over the connection that the options mean.

    Raises:
        UsageError: an option cannot be used.
        ConfigurationError: as `make`, or as `run` of what it makes.
    """
    options, advice = options_of(to)
    agent = make()

    async def ready() -> None:
        if advice:
            # Nobody gave this address: wait for ever only for one that has answered.
            async with connected(to):
                pass
        from callboard.bus.logs import write_to_standard_error  # noqa: PLC0415 - not needed for --help

        write_to_standard_error(logging.NOTSET)
        await agent.run(options)

    run(ready())
