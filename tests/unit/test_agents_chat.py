"""What is read of a chat endpoint's answers, however they are cut; what payloads and `retry-after` mean."""

from __future__ import annotations

import itertools
import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.chat_server import MODEL, USAGE, delta, event, said

from callboard.agents.chat import TAIL_CHARACTERS, Reply, is_retryable, request_body
from callboard.agents.errors import TaskFailed
from callboard.agents.retry_after import LONGEST_MS, retry_after_ms
from callboard.agents.sse import EVENT_BYTES, EventStream, EventTooLargeError
from callboard.schemas.limits import RESULT_BYTES


def events_of(*pieces: bytes) -> list[str]:
    stream = EventStream()
    found = [data for piece in pieces for data in stream.feed(piece)]
    return [*found, *stream.finish()]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_events_are_read_as_the_standard_says(end: bytes) -> None:
    lines = [
        b"\xef\xbb\xbfdata: first", b"", b": a comment", b"", b"event: x", b"id: 1", b"data:no space", b"data:  two",
        b"", b"data", b"", b"retry: 10", b"", b"database: no", b"", b"data: gr\xc3\xbc\xc3\x9fe", b"",
        b"data: at the end", b"",
    ]  # fmt: skip
    expected = ["first", "no space\n two", "", "grüße", "at the end"]
    text = end.join(lines)
    assert events_of(text) == expected
    assert events_of(*(bytes([byte]) for byte in text)) == expected


@given(st.lists(st.integers(1, 40)), st.sampled_from(["\n", "\r\n"]))
def test_wherever_an_answer_is_cut_it_is_the_same(sizes: list[int], end: str) -> None:
    text = said("grüße ", "🙂", "日本").replace(b"\n", end.encode())
    pieces, at = [], 0
    for size in sizes:
        pieces.append(text[at : at + size])
        at += size
    reply = Reply("asked")
    for data in events_of(*pieces, text[at:]):
        reply.take(data)
    assert reply.result().text == "grüße 🙂日本"
    assert reply.is_done


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n\r\n"])
def test_the_last_event_counts_without_an_empty_line_but_not_half_of_it(end: bytes) -> None:
    assert events_of(b"data: x" + end) == (["x"] if end else [])


@pytest.mark.parametrize("piece", [b"x" * 65_536, b"data: %s\n" % (b"x" * 1_000), b"data\n" * 1_000])
def test_an_event_without_end_is_refused(piece: bytes) -> None:
    with pytest.raises(EventTooLargeError):
        events_of(*itertools.repeat(piece, EVENT_BYTES // 1_000 + 1))


def reply_of(*answers: object) -> Reply:
    reply = Reply("asked")
    for answer in answers:
        reply.take(answer if isinstance(answer, str) else json.dumps(answer))
    return reply


def test_an_answer_in_chunks_is_put_together() -> None:
    usage = {"choices": [], "usage": USAGE}
    reply = reply_of(delta(role="assistant", content=""), delta(content="a"), delta(content="b"), delta("stop"), usage)
    assert msgspec.to_builtins(reply.result()) == {
        "text": "ab",
        "model": MODEL,
        "finish_reason": "stop",
        "usage": USAGE,
    }


def test_a_whole_answer_needs_no_reason_and_other_choices_are_not_read() -> None:
    message = {"choices": [{"index": 1, "message": {"content": "no"}}, {"message": {"content": "yes"}}], "usage": None}
    result = reply_of(message).result()
    assert (result.text, result.model, result.finish_reason, result.usage) == ("yes", "asked", None, None)


def test_calls_of_tools_and_refusals_are_part_of_the_result() -> None:
    def call(**fields: object) -> dict[str, object]:
        return delta(tool_calls=[fields])

    result = reply_of(
        call(index=0, id="c0", function={"name": "look", "arguments": ""}),
        call(index=1, id="c1", function={"name": "see", "arguments": '{"a"'}),
        call(index=0, function={"arguments": "{}"}),
        call(index=1, function={"arguments": ":1}"}),
        delta("tool_calls"),
    ).result()
    assert result.tool_calls == [
        {"id": "c0", "type": "function", "function": {"name": "look", "arguments": "{}"}},
        {"id": "c1", "type": "function", "function": {"name": "see", "arguments": '{"a":1}'}},
    ]
    assert reply_of(delta(refusal="I "), delta(refusal="will not"), "[DONE]").result().refusal == "I will not"


def test_a_call_whose_id_comes_with_each_of_its_pieces_is_one() -> None:
    part = {"index": 0, "id": "c0", "function": {"arguments": "1"}}
    many = 20_000
    [call] = reply_of(*[delta(tool_calls=[part])] * many, "[DONE]").result().tool_calls or []
    assert (call["id"], call["function"]["arguments"]) == ("c0", "1" * many)


def test_calls_without_numbers_are_calls_of_their_own() -> None:
    part = {"id": "x", "function": {"name": "f", "arguments": "{}"}}
    assert len(reply_of(delta("tool_calls", tool_calls=[part, part])).result().tool_calls or ()) == 2


@pytest.mark.parametrize(
    ("answers", "kind", "retryable"),
    [
        ([delta(content="a")], "incomplete", True),
        ([{}], "incomplete", True),
        (["<html>"], "invalid_answer", True),
        (['{"choices": 7}'], "invalid_answer", True),
        ([{"choices": [{"delta": {"content": 7}}]}], "invalid_answer", True),
        (["[" * 100_000], "invalid_answer", True),
        ([delta(content="a"), {"error": {"message": "m"}}], "server_error", True),
        ([{"error": "overloaded"}], "server_error", True),
        ([{"error": {"message": "m", "code": 502}}], "server_error", True),
        ([{"error": {"message": "m", "code": 400}}], "server_error", False),
        ([delta(content="x" * (RESULT_BYTES // 2 + 1))] * 2, "output_too_large", False),
        ([delta(tool_calls=[{"function": {"arguments": "x" * (RESULT_BYTES + 1)}}])], "output_too_large", False),
        ([delta(tool_calls=[{}] * 100)] * 100, "output_too_large", False),
        ([delta(tool_calls=[{"index": number}]) for number in range(10_000)], "output_too_large", False),
        ([delta(tool_calls=[{"id": "x" * 1_000}])] * 1_000, "output_too_large", False),
    ],
)
def test_how_an_answer_fails(answers: list[object], kind: str, retryable: bool) -> None:
    with pytest.raises(TaskFailed) as failed:
        reply_of(*answers).result()
    assert (failed.value.error.type, failed.value.error.retryable) == (kind, retryable)


def test_the_tail_is_the_end_of_the_text() -> None:
    assert (
        reply_of(delta(content="a" * TAIL_CHARACTERS), delta(content="bc")).tail == "a" * (TAIL_CHARACTERS - 2) + "bc"
    )


def test_the_requests_that_payloads_make() -> None:
    messages = [{"role": "user", "content": "hi"}]
    assert json.loads(request_body("hi", "m", stream=False)) == {"messages": messages, "model": "m", "stream": False}
    assert json.loads(request_body({"messages": messages, "temperature": 0.5}, "m", stream=True)) == {
        "messages": messages,
        "temperature": 0.5,
        "model": "m",
        "stream": True,
        "stream_options": {"include_usage": True},
    }


@pytest.mark.parametrize(
    "payload",
    [None, "", 7, [], {}, {"messages": []}, {"messages": "hi"}, {"prompt": "hi"},
     *({"messages": [{}], name: 1} for name in ("model", "stream", "stream_options", "n"))],
)  # fmt: skip
def test_a_payload_that_is_no_request_is_refused(payload: object) -> None:
    with pytest.raises(TaskFailed) as failed:
        request_body(payload, "m", stream=True)
    assert (failed.value.error.type, failed.value.error.retryable) == ("invalid_payload", False)


def test_which_statuses_are_not_the_tasks_fault() -> None:
    assert [status for status in range(300, 512) if is_retryable(status)] == [401, 408, 425, 429, *range(500, 512)]


NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def at(seconds: int) -> str:
    return format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"retry-after": "2"}, 2_000),
        ({"retry-after": " 1.5 "}, 1_500),
        ({"retry-after": "0"}, 0),
        ({"retry-after-ms": "250", "retry-after": "1"}, 250),
        ({"retry-after": at(7), "date": at(0)}, 7_000),
        ({"retry-after": at(-7), "date": at(0)}, 0),
        ({"retry-after": "Fri, 02 Jan 2026 03:04:15 -0000", "date": at(0)}, 10_000),
        ({"retry-after": "999999999999999"}, LONGEST_MS),
        ({"retry-after": at(10**9), "date": at(0)}, LONGEST_MS),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "1e3"}, None),
        ({"retry-after": "٣"}, None),
        ({"retry-after": "1e300"}, None),
        ({"retry-after": "Fri, 31 Dec 9999 23:59:59 -1200", "date": at(0)}, LONGEST_MS),
        ({"retry-after": "Fri, 01 Jan 0001 00:00:00 +1200", "date": at(0)}, 0),
        ({"retry-after": "Fri, 02 Jan 10000 03:04:15 GMT"}, None),
        ({"retry-after": f"Fri, 02 Jan {10**20} 03:04:15 GMT"}, None),
        ({"retry-after": f"Fri, 02 Jan 2026 03:04:15 +{10**20}"}, None),
    ],
)
def test_how_long_a_server_asks_to_be_left_alone(headers: dict[str, str], expected: int | None) -> None:
    assert retry_after_ms(headers) == expected


def test_a_date_counts_from_now_when_the_server_does_not_say_its_own() -> None:
    until = datetime.now(UTC) + timedelta(seconds=60)
    pause = retry_after_ms({"retry-after": format_datetime(until, usegmt=True)})
    assert pause is not None
    assert 0 < pause <= 60_000


def test_an_event_is_what_the_server_of_the_tests_sends() -> None:
    assert events_of(event("[DONE]")) == ["[DONE]"]
