"""The commands about agents: agents, agent get, spawn, shutdown, drain, resume."""

from callboard.cli.connection import HERE, Connection, connected, run
from callboard.cli.output import ago, plain, print_fields, print_json, print_line, print_note, print_table
from callboard.cli.values import DurationMs, Names, PageSize, Slots, parse_label, parse_pairs
from callboard.schemas.agents import AgentChange
from callboard.schemas.vocabulary import AgentState

_SPAWN_S = 60.0


def agents(
    *,
    state: AgentState | None = None,
    capability: str | None = None,
    limit: PageSize | None = None,
    cursor: str | None = None,
    all: bool = False,  # noqa: A002 - the option's name
    json: bool = False,
    to: Connection = HERE,
) -> None:
    """List agents by id.

    Args:
        state: Only agents in this state.
        capability: Only agents with this capability.
        limit: How many for a page: 50 by default, at most 500; fewer where they are large.
        cursor: Go on where the page that printed this cursor ended.
        all: Go on to the last page; with --json one agent per line.
        json: Print the page as one JSON document.
        to: How the orchestrator is reached.
    """
    columns = ("AGENT", "STATE", "ROLE", "SLOTS", "SUCCESS", "SEEN", "CAPABILITIES")

    async def ask() -> None:
        at, first = cursor, True
        async with connected(to) as client:
            while first or (all and at):
                page = await client.agents(
                    state=state, capability=capability, limit=limit, cursor=at, timeout_s=to.timeout_s
                )
                if not json:
                    rows = (
                        (a.agent_id, a.state, a.role, f"{a.slots_used}/{a.slots}", _rate(a.success_rate),
                         ago(a.last_seen_at), a.capabilities)
                        for a in page.agents
                    )  # fmt: skip
                    print_table(columns, rows, header=first)
                elif all:
                    for agent in page.agents:
                        print_json(agent)
                else:
                    print_json(page)
                at, first = page.cursor, False
        if at and not json:
            print_note(f"there are more: --cursor {at} or --all")

    run(ask())


def get(agent_id: str, /, *, json: bool = False, to: Connection = HERE) -> None:
    """Show one agent: its state, what it can do and what it runs.

    Args:
        agent_id: Which agent.
        json: Print the agent as one JSON document.
        to: How the orchestrator is reached.
    """

    async def ask() -> None:
        async with connected(to) as client:
            agent = await client.agent(agent_id, timeout_s=to.timeout_s)
        if json:
            print_json(agent)
            return
        print_fields(
            (
                ("agent", agent.agent_id),
                ("state", agent.state),
                ("draining", "yes" if agent.draining else None),
                ("role", agent.role),
                ("capabilities", agent.capabilities or None),
                ("labels", agent.labels or None),
                ("metadata", agent.metadata or None),
                ("slots", f"{agent.slots_used} of {agent.slots} used"),
                ("runs", ", ".join(f"{held.task_id} (attempt {held.attempt})" for held in agent.tasks) or None),
                ("success", _rate(agent.success_rate)),
                ("last seen", ago(agent.last_seen_at)),
                ("version", agent.version),
                ("incarnation", agent.incarnation),
                ("spawned", "by the orchestrator" if agent.spawned else None),
            )
        )

    run(ask())


def spawn(
    role: str,
    /,
    *,
    capability: Names = None,
    agent_id: str | None = None,
    slots: Slots | None = None,
    label: Names = None,
    env: Names = None,
    json: bool = False,
    to: Connection = HERE,
) -> None:
    """Have the orchestrator start an agent process of a role; prints its id once it is online.

    Args:
        role: The role, as in the orchestrator's configuration.
        capability: What it shall be able to do; may be repeated.
        agent_id: Its id; one is made from the role when absent.
        slots: How many tasks it takes at once.
        label: A label, name=value; may be repeated.
        env: A variable of its environment, NAME=value, of those that the role allows; may be repeated.
        json: Print the answer as one JSON document.
        to: How the orchestrator is reached.
    """

    async def ask() -> None:
        async with connected(to) as client:
            answer = await client.spawn(
                role,
                capabilities=capability,
                agent_id=agent_id,
                slots=slots,
                labels={name: parse_label(value) for name, value in parse_pairs(label, "--label").items()},
                env=parse_pairs(env, "--env"),
                timeout_s=max(to.timeout_s, _SPAWN_S),
            )
        print_json(answer) if json else print_line(answer.agent_id)

    run(ask())


def shutdown(
    agent_id: str,
    /,
    *,
    grace: DurationMs | None = None,
    reason: str | None = None,
    json: bool = False,
    to: Connection = HERE,
) -> None:
    """Stop an agent; what it does not finish within the grace goes to others.

    Args:
        agent_id: Which agent.
        grace: How long it may finish what it runs, e.g. 10s.
        reason: Why, for its log.
        json: Print the answer as one JSON document.
        to: How the orchestrator is reached.
    """

    async def ask() -> None:
        async with connected(to) as client:
            timeout_s = to.timeout_s + (grace or 0) / 1000
            _show(await client.shutdown_agent(agent_id, grace_ms=grace, reason=reason, timeout_s=timeout_s), json=json)

    run(ask())


def drain(agent_id: str, /, *, reason: str | None = None, json: bool = False, to: Connection = HERE) -> None:
    """Let an agent finish what it runs and give it nothing new, until `resume`; survives its restart.

    Args:
        agent_id: Which agent.
        reason: Why, for whoever looks at it later.
        json: Print the answer as one JSON document.
        to: How the orchestrator is reached.
    """

    async def ask() -> None:
        async with connected(to) as client:
            _show(await client.drain(agent_id, reason=reason, timeout_s=to.timeout_s), json=json)

    run(ask())


def resume(agent_id: str, /, *, json: bool = False, to: Connection = HERE) -> None:
    """End an agent's drain or quarantine.

    Args:
        agent_id: Which agent.
        json: Print the answer as one JSON document.
        to: How the orchestrator is reached.
    """

    async def ask() -> None:
        async with connected(to) as client:
            _show(await client.resume(agent_id, timeout_s=to.timeout_s), json=json)

    run(ask())


def _show(answer: AgentChange, *, json: bool) -> None:
    if json:
        print_json(answer)
    else:
        print_line(f"{plain(answer.agent_id)} {answer.state}" + ("" if answer.changed else " (already)"))


def _rate(share: float | None) -> str | None:
    return None if share is None else f"{share:.0%}"
