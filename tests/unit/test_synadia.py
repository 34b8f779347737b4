"""The pure half of the Synadia Agent Protocol: messages, who is there, prompts and results, errors."""

from typing import Any

import msgspec
import pytest

from callboard.agents.errors import TaskFailed
from callboard.agents.synadia import wire
from callboard.agents.synadia.errors import error_of, failure_of, refusal
from callboard.agents.synadia.peers import Peer, UnfitError, agent_id_of, peer_of
from callboard.agents.synadia.prompts import MOST_BYTES, Answer, answer_bytes, envelope_of
from callboard.agents.synadia.replies import result_chunks
from callboard.agents.synadia.roster import Joined, Left, Restarted, Roster
from callboard.agents.synadia.wire import MalformedError, Query, Response, ServiceInfo, Status
from callboard.schemas.tasks import TaskError

FILE = {"filename": "a", "content": "aGk="}


# Messages


@pytest.mark.parametrize(
    "chunk",
    [
        Response("hi ünï"),
        Response("", (FILE,)),
        Status("ack"),
        Query("1", "_INBOX.x", "?"),
        Query("1", "_", "?", (FILE,)),
    ],
)
def test_a_chunk_is_read_as_it_was_written(chunk: wire.Chunk) -> None:
    assert wire.read_chunk(wire.write_chunk(chunk)) == chunk


def test_both_forms_of_a_response_are_read() -> None:
    assert wire.read_chunk(b'{"type": "response", "data": {"text": "a", "new": 1}, "more": 2}') == Response("a")


@pytest.mark.parametrize(
    ("text", "size"),
    [("1MB", 1024**2), ("512 kb", 512 * 1024), ("7B", 7), ("2GB", 2 * 1024**3), ("1", None), ("-1MB", None), (5, None)],
)
def test_sizes_are_of_1024(text: object, size: int | None) -> None:
    assert wire.size_of(text) == size


@pytest.mark.parametrize(
    ("data", "envelope"),
    [
        (b"hi", {"prompt": "hi"}),
        (b" \n hi ", {"prompt": " \n hi "}),
        (b'\t{"prompt": "a", "x": 1}', {"prompt": "a", "x": 1}),
        (b'{"prompt": "a", "attachments": [{"filename": "a", "content": "aGk=", "new": 1}]}',
         {"prompt": "a", "attachments": [{**FILE, "new": 1}]}),
    ],
)  # fmt: skip
def test_an_envelope_is_text_or_an_object(data: bytes, envelope: dict[str, Any]) -> None:
    assert wire.read_envelope(data) == envelope


@pytest.mark.parametrize(
    "data",
    [b"", b"  \n", b"{", b"{}", b'{"prompt": 1}', b'{"prompt": ""}', b"\xff", b'{"prompt": "a", "attachments": 1}',
     b'{"prompt": "a", "attachments": [{"filename": "a"}]}',
     b'{"prompt": "a", "attachments": [{"filename": "a", "content": "a-_="}]}',
     b'{"prompt": "a", "attachments": [{"filename": "a", "content": "aG k="}]}'],
)  # fmt: skip
def test_what_is_no_envelope_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedError):
        wire.read_envelope(data)


# Who is there


def info(instance: str = "i1", **changes: Any) -> ServiceInfo:  # noqa: ANN401 - fields of a record
    fields = {
        "name": "agents",
        "id": instance,
        "version": "1.0.0",
        "metadata": {"agent": "cc", "owner": "rene", "session": "s", "protocol_version": "0.3"},
        "endpoints": [{"name": "prompt", "subject": "agents.prompt.cc.rene.app", "metadata": {"max_payload": "1MB"}}],
    }
    return msgspec.convert({**fields, **changes}, ServiceInfo)


def peer(instance: str = "i1", subject: str = "agents.prompt.cc.rene.app") -> Peer:
    return peer_of(info(instance, endpoints=[{"name": "prompt", "subject": subject}]))


def test_a_record_becomes_an_agent() -> None:
    found = peer_of(info())
    assert (found.agent_id, found.capabilities) == ("synadia-cc-rene-app", ("synadia", "cc"))
    assert (found.max_payload, found.attachments_ok) == (1024**2, False)
    assert found.labels["name"] == "app"
    assert found.metadata["subject"] == "agents.prompt.cc.rene.app"


def test_a_subject_of_its_own_is_taken_as_it_is() -> None:
    found = peer(subject="my.agents.prompt")
    assert found.subject == "my.agents.prompt"
    assert found.agent_id == agent_id_of("cc", "rene", "s")


@pytest.mark.parametrize(
    "changes",
    [
        {"metadata": None},
        {"metadata": {"agent": "cc", "owner": "rene", "protocol_version": "1.3"}},
        {"metadata": {"agent": "callboard", "owner": "rene", "protocol_version": "0.3"}},
        {"endpoints": []},
        {"endpoints": [{"name": "status", "subject": "a"}]},
        {"endpoints": [{"name": "prompt", "subject": ""}]},
        {"endpoints": [{"name": "prompt", "subject": "callboard.v1.default.pool.pause"}]},
        {"endpoints": [{"name": "prompt", "subject": "$SYS.REQ.SERVER.PING"}]},
        {"endpoints": [{"name": "prompt", "subject": "_INBOX.abc"}]},
        {"endpoints": [{"name": "prompt", "subject": "a", "metadata": {"min_sender_trust": "whatever"}}]},
        {"id": ""},
    ],
)
def test_what_cannot_be_prompted_is_no_agent(changes: dict[str, Any]) -> None:
    with pytest.raises(UnfitError):
        peer_of(info(**changes))


def test_ids_are_names_and_differ() -> None:
    parts = [
        ("a", "b", "c"),
        ("a-b", "c", "d"),
        ("a", "b-c", "d"),
        ("a", "b.c", "d"),
        ("a", "b", "c" * 80),
        ("ü", "b", "c"),
    ]
    ids = [agent_id_of(*each) for each in parts]
    assert len(set(ids)) == len(ids)
    assert ids[0] == "synadia-a-b-c"
    assert all(len(each) <= 64 and each.replace("-", "").replace("_", "").isalnum() and each.isascii() for each in ids)


def test_three_intervals_of_silence_are_too_many() -> None:
    roster = Roster()
    assert roster.introduce(peer(), 0, interval_s=30) == [Joined(peer())]
    assert roster.introduce(peer(), 10_000) == []
    roster.beat("i1", 1.0, 20_000)
    assert roster.next_due_ms() == 23_000
    assert roster.silent(22_999) == []
    assert roster.silent(23_000) == ["i1"]
    assert roster.gone("i1") == [Left("agents.prompt.cc.rene.app")]
    assert roster.gone("i1") == []
    assert (len(roster), roster.next_due_ms()) == (0, None)


def test_what_could_not_be_heard_counts_for_nothing() -> None:
    roster = Roster()
    roster.introduce(peer(), 0, interval_s=1)
    roster.resumed(60_000)
    assert roster.silent(62_000) == []


def test_a_successor_is_told_from_a_second_instance() -> None:
    roster = Roster()
    roster.introduce(peer("i1"), 0)
    assert roster.introduce(peer("i2"), 5_000) == []
    assert roster.others(peer("i2")) == ["i1"]
    assert roster.gone("i1") == [Restarted(peer("i2"))], "not heard since the other one came"
    roster.introduce(peer("i3"), 6_000)
    roster.beat("i2", 30, 7_000)
    assert roster.gone("i2") == [], "they were there together"
    assert roster.gone("i3") == [Left("agents.prompt.cc.rene.app")]


def test_one_that_moves_leaves_its_place() -> None:
    roster = Roster()
    roster.introduce(peer(), 0)
    moved = peer(subject="elsewhere")
    assert roster.introduce(moved, 1) == [Left("agents.prompt.cc.rene.app"), Joined(moved)]


def test_a_subject_that_nobody_listens_on_is_empty() -> None:
    roster = Roster()
    roster.introduce(peer("i1"), 0)
    roster.introduce(peer("i2"), 0)
    assert roster.vacate("agents.prompt.cc.rene.app") == [Left("agents.prompt.cc.rene.app")]
    assert not roster.knows("i1")
    assert roster.vacate("agents.prompt.cc.rene.app") == []


def test_no_interval_keeps_an_agent_for_ever() -> None:
    roster = Roster()
    for interval_s in (1e300, float("inf")):
        roster.introduce(peer(), 0, interval_s=interval_s)
        assert (roster.next_due_ms() or 0) <= 3 * 600_000


# Prompts and results


def test_nothing_to_say_is_no_prompt() -> None:
    with pytest.raises(TaskFailed):
        envelope_of(None, None)


@pytest.mark.parametrize(
    ("answer", "data"),
    [
        ("yes", b"yes"),
        ("{no", b'{"prompt":"{no"}'),
        ("", b'{"prompt":""}'),
        ({"prompt": "a", "attachments": []}, b'{"prompt":"a","attachments":[]}'),
        ([1], b'{"prompt":"[1]"}'),
        (None, b'{"prompt":"null"}'),
    ],
)
def test_answers_are_text_where_they_can_be(answer: object, data: bytes) -> None:
    assert answer_bytes(answer) == data


def test_an_answer_is_bounded() -> None:
    answer = Answer()
    answer.take(Response("x" * MOST_BYTES))
    with pytest.raises(TaskFailed):
        answer.take(Response("y"))
    assert len(answer.tail) == 200


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ("hi", "hi"),
        ({"text": "hi"}, "hi"),
        ({"lines": 2}, '{"lines":2}'),
        (None, "null"),
        ('ü\0"🙂' * 999, 'ü\0"🙂' * 999),
    ],
)
def test_a_result_comes_in_pieces_that_fit(result: object, text: str) -> None:
    pieces = list(result_chunks(result, 1_000))
    assert "".join(piece.text for piece in pieces) == text
    assert all(len(wire.write_chunk(piece)) <= 1_000 for piece in pieces)


def test_attachments_come_if_they_fit() -> None:
    files = [FILE, {"filename": "big", "content": "A" * 1_000}, "none"]
    assert list(result_chunks({"text": "t", "attachments": files}, 1_000)) == [Response("t"), Response("", (FILE,))]


# Errors


@pytest.mark.parametrize(
    ("headers", "data", "error"),
    [
        ({"Nats-Service-Error-Code": "429"}, b'{"retry_after_s": 1.5}',
         TaskError(message="error 429", type="error_429", retryable=True, retry_after_ms=1500)),
        ({"Nats-Service-Error-Code": "404", "Nats-Service-Error": "gone"}, b"not json",
         TaskError(message="gone", type="error_404", retryable=False)),
        ({"Nats-Service-Error-Code": "x"}, b'{"retry_after_s": -1, "error": 1}',
         TaskError(message="error x", type="error_500", retryable=True)),
        ({"Nats-Service-Error-Code": "503"}, b'{"retry_after_s": true}',
         TaskError(message="error 503", type="error_503", retryable=True)),
    ],
)  # fmt: skip
def test_an_error_becomes_a_failure(headers: dict[str, str], data: bytes, error: TaskError) -> None:
    failed = failure_of(headers, data)
    assert failed is not None
    assert failed.error == error


def test_no_error_is_no_failure() -> None:
    assert failure_of({"Other": "1"}, b"") is None


def test_a_failure_becomes_an_error() -> None:
    headers, body = error_of(TaskError(message="m", type="quota", retry_after_ms=2500), "task 1 failed:\n quota\x07")
    assert headers == {"Nats-Service-Error-Code": "429", "Nats-Service-Error": "task 1 failed:  quota "}
    assert msgspec.json.decode(body) == {
        "error": "quota",
        "message": "task 1 failed:\n quota\x07",
        "retry_after_s": 2.5,
    }
    assert error_of(None, "it expired")[0]["Nats-Service-Error-Code"] == "500"
    assert len(refusal(400, "x" * 999, "bad")[0]["Nats-Service-Error"]) == 200
