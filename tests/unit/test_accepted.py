"""What was accepted under wider limits is read all the same, and damage is named."""

import msgspec
import pytest
from tests.support.core_rig import Rig, done

from callboard.orchestrator.core.specs import stored_task
from callboard.schemas.accepted import decoder_of_accepted
from callboard.schemas.agents import AgentDocument
from callboard.schemas.tasks import Backoff, Requirements, TaskDocument, TaskSpec

WIDER = b'{"type":"a type!","max_attempts":5000,"key":"%s","requires":{"capabilities":%s}}' % (
    b"k" * 1000,
    msgspec.json.encode(["x"] * 300),
)


def test_limits_that_came_later_do_not_hold() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(WIDER, type=TaskSpec)
    spec = decoder_of_accepted(TaskSpec).decode(WIDER)
    assert isinstance(spec, TaskSpec)
    assert isinstance(spec.requires, Requirements)
    assert (spec.type, spec.max_attempts, len(spec.key or "")) == ("a type!", 5000, 1000)


@pytest.mark.parametrize("kind", [TaskSpec, TaskDocument, AgentDocument, Backoff])
def test_nothing_else_changes(kind: type[msgspec.Struct]) -> None:
    unlimited = decoder_of_accepted(kind).type
    ours = {field.name: (field.default, field.required) for field in msgspec.structs.fields(unlimited)}
    assert ours == {field.name: (field.default, field.required) for field in msgspec.structs.fields(kind)}
    for of in ("frozen", "omit_defaults", "forbid_unknown_fields"):
        assert getattr(unlimited.__struct_config__, of) == getattr(kind.__struct_config__, of)


@pytest.mark.parametrize(
    "data",
    [
        b"{}",
        b'{"type":1}',
        b'{"type":"a","zone":"eu"}',
        b'{"type":"a","ttl_ms":1,"deadline":"2026-01-01T00:00:00Z"}',
        b'{"type":"a","requires":{"labels":[{"key":"k","op":"in","value":1}]}}',
    ],
)
def test_what_has_another_meaning_is_still_refused(data: bytes) -> None:
    with pytest.raises(msgspec.ValidationError):
        decoder_of_accepted(TaskSpec).decode(data)


def test_content_alone_makes_what_was_accepted_equal() -> None:
    spec = TaskSpec(type="a", requires=Requirements(capabilities=["x"]), backoff=Backoff(initial_ms=5))
    accepted = decoder_of_accepted(TaskSpec).decode(msgspec.json.encode(spec))
    unlike = msgspec.structs.replace(spec, backoff=Backoff(initial_ms=6))
    assert spec.backoff is not None
    assert accepted.backoff is not None
    # In both orders, since either side may be asked.
    assert (accepted.backoff == spec.backoff, spec.backoff == accepted.backoff) == (True, True)
    assert (accepted.requires == spec.requires, spec.requires == accepted.requires) == (True, True)
    assert (accepted == unlike, unlike == accepted) == (False, False)
    assert hash(accepted.backoff) == hash(spec.backoff)


def test_damage_is_named() -> None:
    rig = Rig()
    task_id = rig.submit()
    head = done(rig.store.load(rig.lease)).heads[0]
    with pytest.raises(ValueError, match=f"task {task_id}: its stored specification is damaged"):
        stored_task(msgspec.structs.replace(head, spec=b'{"type":'))
