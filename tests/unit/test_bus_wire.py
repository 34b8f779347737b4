"""The bytes of the NATS protocol, cut however the network cuts them."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard.bus.wire import (
    SUBJECT_BYTES,
    BrokenFrameError,
    FrameReader,
    check_pattern,
    check_subject,
    header_block,
    is_subject,
    publish_frame,
    read_headers,
    subscribe_frame,
    unsubscribe_frame,
)
from callboard.schemas.errors import InvalidRequestError

Message = tuple[int, bytes, bytes, bytes, bytes]


def read(*chunks: bytes) -> tuple[list[Message], list[bytes]]:
    messages: list[Message] = []
    lines: list[bytes] = []
    reader = FrameReader(lambda *message: messages.append(message), lines.append)
    for chunk in chunks:
        reader.feed(chunk)
    return messages, lines


STREAM = (
    b"INFO {}\r\n"
    b"MSG a 1 2\r\nhi\r\n"
    b"PING\r\n"
    b"MSG a.b 2 _INBOX.x 0\r\n\r\n"
    b"HMSG a 3 12 14\r\nNATS/1.0\r\n\r\nhi\r\n"
    b"HMSG a 4 _INBOX.y 16 16\r\nNATS/1.0 503\r\n\r\n\r\n"
    b"MSG \xff\x0b 5 r\x0c 4\r\n\r\n\r\n\r\n"
    b"-ERR 'Some Thing'\r\n"
)
MESSAGES = [
    (1, b"a", b"", b"", b"hi"),
    (2, b"a.b", b"_INBOX.x", b"", b""),
    (3, b"a", b"", b"NATS/1.0\r\n\r\n", b"hi"),
    (4, b"a", b"_INBOX.y", b"NATS/1.0 503\r\n\r\n", b""),
    (5, b"\xff\x0b", b"r\x0c", b"", b"\r\n\r\n"),
]
LINES = [b"INFO {}", b"PING", b"-ERR 'Some Thing'"]


def test_every_frame_is_cut() -> None:
    assert read(STREAM) == (MESSAGES, LINES)


def test_a_byte_at_a_time_is_the_same() -> None:
    assert read(*(STREAM[at : at + 1] for at in range(len(STREAM)))) == (MESSAGES, LINES)


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_any_cut_is_the_same(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    chunks = [STREAM[start:stop] for start, stop in itertools.pairwise(edges)]
    assert read(*chunks) == (MESSAGES, LINES)


@pytest.mark.parametrize(
    "line",
    [
        b"MSG a",
        b"MSG a 1",
        b"MSG a x 2",
        b"MSG a 1 x",
        b"MSG a 1 b c 2",
        b"HMSG a 1 2",
        b"HMSG a 1 x 2",
        b"MSG  a 1 2 3 4",
    ],
)
def test_a_message_line_that_is_none_is_an_error(line: bytes) -> None:
    with pytest.raises(BrokenFrameError, match="not a message's line"):
        read(line + b"\r\n")


@pytest.mark.parametrize("subject", ["a", "a.b", "$SRV.PING", "_INBOX.x-1", "ä.€", "a" * SUBJECT_BYTES])
def test_subjects(subject: str) -> None:
    check_subject(subject)
    check_pattern(subject)


@pytest.mark.parametrize(
    "subject",
    [
        *(
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "a b",
            "a\tb",
            "a\x0bb",
            "a\nb",
            "a\u00a0b",
            "\x00",
            "\x7f",
            "a*",
            "a>b",
            "\ud800",
        ),
        "ä" * (SUBJECT_BYTES // 2 + 1),
    ],
)
def test_what_is_neither_subject_nor_pattern(subject: str) -> None:
    assert not is_subject(subject)
    with pytest.raises(InvalidRequestError):
        check_subject(subject)
    with pytest.raises(InvalidRequestError):
        check_pattern(subject)


@pytest.mark.parametrize("pattern", ["*", ">", "a.*", "*.a", "a.*.b", "a.>", "*.>"])
def test_patterns_are_no_subjects(pattern: str) -> None:
    check_pattern(pattern)
    assert not is_subject(pattern)


@pytest.mark.parametrize("pattern", [">.a", "a>", "a.>.b", "**", "a.**"])
def test_misplaced_wildcards(pattern: str) -> None:
    with pytest.raises(InvalidRequestError):
        check_pattern(pattern)


def test_commands() -> None:
    assert publish_frame("a", "", b"", b"hi") == b"PUB a 2\r\nhi\r\n"
    assert publish_frame("a", "r", b"", b"") == b"PUB a r 0\r\n\r\n"
    block = header_block({"A": "b"})
    assert publish_frame("a", "r", block, b"hi") == b"HPUB a r 18 20\r\nNATS/1.0\r\nA: b\r\n\r\nhi\r\n"
    assert subscribe_frame("a.*", 7) == b"SUB a.* 7\r\n"
    assert unsubscribe_frame(7) == b"UNSUB 7\r\n"


@given(st.dictionaries(st.from_regex(r"[A-Za-z0-9-]+", fullmatch=True), st.text()))
def test_no_value_leaves_its_line(headers: dict[str, str]) -> None:
    block = header_block(headers)
    assert block.count(b"\r\n") == len(headers) + 2
    assert block.endswith(b"\r\n\r\n")
    _, back = read_headers(block)
    assert list(back) == list(headers)


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a\r\nb", "ä"])
def test_a_header_name_is_a_token(name: str) -> None:
    with pytest.raises(InvalidRequestError):
        header_block({name: "x"})


@given(st.binary())
def test_no_header_block_raises(block: bytes) -> None:
    read_headers(block)


def test_status_and_headers_are_read() -> None:
    assert read_headers(b"NATS/1.0 503\r\n\r\n") == (503, {})
    assert read_headers(b"NATS/1.0 100 Idle Heartbeat\r\nA:b\r\nA: c\r\n\r\n") == (100, {"A": "b"})
    assert read_headers(b"NATS/1.0 xyz\r\n\r\n") == (None, {})
    assert read_headers("NATS/1.0 ²²²\r\n\r\n".encode()) == (None, {})
