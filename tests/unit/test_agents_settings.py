"""Who an agent is: arguments over environment over defaults."""

import pytest

from callboard.agents.settings import AgentSettings
from callboard.schemas.errors import ConfigurationError

ENVIRONMENT = {
    "CALLBOARD_AGENT_ID": "spawned-1",
    "CALLBOARD_POOL": "gpu",
    "CALLBOARD_PREFIX": "cb",
    "CALLBOARD_ROLE": "tester",
    "CALLBOARD_CAPABILITIES": "python, api,,python",
    "CALLBOARD_SLOTS": "3",
    "CALLBOARD_LABELS": '{"zone": "a", "cores": 8, "fast": true}',
}


def test_the_environment_of_a_launcher_is_enough() -> None:
    identity = AgentSettings().identity(ENVIRONMENT)
    assert identity.agent_id == "spawned-1"
    assert identity.subjects.to_agent("x", "assign") == "cb.v1.gpu.to.x.assign"
    assert (identity.role, identity.slots) == ("tester", 3)
    assert identity.capabilities == ("python", "api")
    assert identity.labels == {"zone": "a", "cores": 8, "fast": True}


def test_arguments_come_first() -> None:
    settings = AgentSettings(agent_id="mine", capabilities=[], slots=1, labels={}, role="r", pool="p", prefix="q")
    identity = settings.identity(ENVIRONMENT)
    assert (identity.agent_id, identity.capabilities, identity.slots, identity.labels) == ("mine", (), 1, {})
    assert (identity.role, identity.subjects.pool, identity.subjects.prefix) == ("r", "p", "q")


def test_with_nothing_given_every_agent_is_another() -> None:
    first, second = AgentSettings().identity({}), AgentSettings().identity({})
    assert first.agent_id != second.agent_id
    assert first.incarnation != second.incarnation
    assert (first.slots, first.subjects.root) == (1, "callboard.v1.default")


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"CALLBOARD_AGENT_ID": "a.b"}, "not an agent id: 'a.b'"),
        ({"CALLBOARD_POOL": "Upper"}, "not a pool: 'Upper'"),
        ({"CALLBOARD_PREFIX": ">"}, "not a prefix: '>'"),
        ({"CALLBOARD_ROLE": "a b"}, "not a role: 'a b'"),
        ({"CALLBOARD_CAPABILITIES": "ok,no way"}, "not a capability: 'no way'"),
        ({"CALLBOARD_SLOTS": "0"}, "CALLBOARD_SLOTS must be from 1 to 10000, not 0"),
        ({"CALLBOARD_SLOTS": "²"}, "CALLBOARD_SLOTS is not a number: '²'"),
        ({"CALLBOARD_LABELS": "[]"}, "CALLBOARD_LABELS: "),
        ({"CALLBOARD_LABELS": '{"a.b": 1}'}, "CALLBOARD_LABELS: "),
    ],
)
def test_a_mistake_is_named_with_its_value(environment: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        AgentSettings().identity(environment)
    assert words in error.value.message
