"""Examples of what clients ask about agents and the pool (protocol, section 5)."""

from typing import Final

from artefacts.examples.common import AGENT_ID, AT, HELD, INCARNATION, LATER
from artefacts.golden import ABSENT, Bad, Golden
from callboard.schemas import agents as a
from callboard.schemas import status as s
from callboard.schemas.base import Message, Nothing
from callboard.schemas.pools import PoolChange, PoolState, PoolVerb
from callboard.schemas.tasks import TaskCounts
from callboard.schemas.vocabulary import AgentState, DatabaseHealth, Durability, TaskAssignmentStrategy, TaskState

_AGENT: Final = a.AgentDocument(
    agent_id=AGENT_ID,
    state=AgentState.ONLINE,
    role="reviewer",
    capabilities=["python"],
    labels={"zone": "a", "memory_gb": 16, "gpu": False},
    slots=4,
    slots_used=1,
    incarnation=INCARNATION,
    version="1.2",
    last_seen_at=LATER,
    tasks=[HELD],
    success_rate=0.5,
    metadata={"host": "n1"},
)
_NEW: Final = a.AgentDocument(
    agent_id=AGENT_ID,
    state=AgentState.STARTING,
    role=None,
    capabilities=[],
    labels={},
    slots=1,
    slots_used=0,
    incarnation=None,
    version=None,
    last_seen_at=None,
    tasks=[],
    success_rate=None,
    spawned=True,
)
_BAD_ID: Final = Bad("an agent id that is no name", {"agent_id": "reviewer.1"}, "agent_id")
_NO_ID: Final = Bad("which agent is missing", {"agent_id": ABSENT}, "agent_id")
_QUICK: Final = s.Latency(count=2, p50_ms=1.5, p95_ms=4, p99_ms=4)
_STATUS: Final = s.SystemStatus(
    pool="default",
    mode="development",
    version="0.1.0",
    started_at=AT,
    uptime_ms=1250,
    owner=s.Owner(replica="n1-1", epoch=3, since=AT),
    durability=Durability.FSYNC,
    health=s.Health(database=DatabaseHealth.OK, bus="ok", degraded=False),
    agents=s.AgentCounts(total=1, by_state={AgentState.ONLINE: 1}, slots=4, slots_used=1),
    tasks=TaskCounts(by_state={TaskState.QUEUED: 1, TaskState.SUCCEEDED: 2}, oldest_queued_ms=20),
    performance=s.Performance(
        submit=_QUICK,
        dispatch=_QUICK,
        run=_QUICK,
        end_to_end=_QUICK,
        commit=s.Latency(count=0),
        success_rate=1,
        tasks_per_minute=2,
    ),
    strategy=TaskAssignmentStrategy.ROUND_ROBIN,
    paused=False,
    paused_types=["nightly"],
)
_ON_AGENT: Final[dict[str, Message]] = {"with a reason": a.AgentVerb(agent_id=AGENT_ID, reason="maintenance")}
_DRAINING: Final[dict[str, Message]] = {
    "changed": a.AgentChange(agent_id=AGENT_ID, state=AgentState.DRAINING, changed=True)
}
_OF_POOL: Final[dict[str, Message]] = {"the whole pool": PoolVerb(), "one type": PoolVerb(type="nightly")}
_NO_TYPE: Final = [Bad("a type that is no name", {"type": "code review"}, "type")]

EXAMPLES: Final[dict[str, Golden]] = {
    "status": Golden(good={"nothing to say": Nothing()}, answers={"at work": _STATUS}),
    "agents.list": Golden(
        good={
            "all": a.ListAgents(),
            "some": a.ListAgents(state=AgentState.ONLINE, capability="python", limit=20, cursor="b3Bh"),
        },
        bad=[
            Bad("an unknown state", {"state": "alive"}, "state"),
            Bad("a capability that is no name", {"capability": "py thon"}, "capability"),
            Bad("too many", {"limit": 501}, "limit"),
        ],
        answers={"a page": a.AgentPage(agents=[_AGENT, _NEW], cursor="b3Bh")},
    ),
    "agents.get": Golden(
        good={"an agent": a.GetAgent(agent_id=AGENT_ID)}, bad=[_BAD_ID, _NO_ID], answers={"online": _AGENT}
    ),
    "agents.spawn": Golden(
        good={
            "everything": a.SpawnAgent(
                role="worker",
                capabilities=["python"],
                agent_id="worker-1",
                slots=2,
                labels={"zone": "a"},
                env={"GREETING": "hello"},
            ),
            "the role alone": a.SpawnAgent(role="worker"),
        },
        bad=[
            Bad("no role", {"role": ABSENT}, "role"),
            Bad("no slot", {"slots": 0}, "slots"),
            Bad("a label that is a list", {"labels": {"zone": ["a"]}}, "labels[...]"),
            Bad("a variable that is no text", {"env": {"GREETING": 1}}, "env[...]"),
        ],
        answers={"online": a.SpawnAnswer(agent_id="worker-1", state=AgentState.ONLINE)},
    ),
    "agents.drain": Golden(good=_ON_AGENT, bad=[_BAD_ID, _NO_ID], answers=_DRAINING),
    "agents.resume": Golden(
        good=_ON_AGENT,
        bad=[_BAD_ID, _NO_ID],
        answers={
            "it was so already": a.AgentChange(agent_id=AGENT_ID, state=AgentState.ONLINE, changed=False),
        },
    ),
    "agents.shutdown": Golden(
        good={"within ten seconds": a.AgentVerb(agent_id=AGENT_ID, grace_ms=10_000)},
        bad=[_BAD_ID, _NO_ID, Bad("a negative duration", {"grace_ms": -1}, "grace_ms")],
        answers=_DRAINING,
    ),
    "pool.pause": Golden(
        good=_OF_POOL,
        bad=_NO_TYPE,
        answers={"one type": PoolChange(pool="default", state=PoolState.PAUSED, changed=True, type="nightly")},
    ),
    "pool.resume": Golden(
        good=_OF_POOL,
        bad=_NO_TYPE,
        answers={"the whole pool": PoolChange(pool="default", state=PoolState.ACTIVE, changed=True)},
    ),
}
