"""How values are written on the command line, and shown by it."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest

from callboard.cli.exits import UsageError
from callboard.cli.output import duration, plain
from callboard.cli.values import parse_duration_ms, parse_label, parse_pairs
from callboard.schemas.names import MAX_DURATION_MS


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [("500ms", 500), ("10s", 10_000), ("1.5m", 90_000), ("2h", 7_200_000), ("1d", 86_400_000), ("1h30m", 5_400_000)],
)
def test_durations(text: str, milliseconds: int) -> None:
    assert parse_duration_ms(text) == milliseconds


@pytest.mark.parametrize("text", ["", "5", "s", "5 s", "-5s", "5x", "5s!", "1e3s", "٣s"])
def test_what_is_no_duration_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(text))):
        parse_duration_ms(text)


def test_a_negative_duration_is_called_so() -> None:
    with pytest.raises(ValueError, match="'-5s': a duration must not be negative"):
        parse_duration_ms("-5s")


@pytest.mark.parametrize("text", ["3650d1ms", "400000d", "9" * 400 + "s"])
def test_a_duration_that_is_too_long_is_told_the_longest(text: str) -> None:
    with pytest.raises(ValueError, match=f"'{text[:9]}.*at most 3650d"):
        parse_duration_ms(text)
    assert parse_duration_ms("3650d") == MAX_DURATION_MS


def test_pairs_keep_what_follows_the_first_equals_sign() -> None:
    assert parse_pairs(["a=1", "b=c=d", "e="], "--metadata") == {"a": "1", "b": "c=d", "e": ""}
    assert parse_pairs(None, "--metadata") == {}


@pytest.mark.parametrize("pair", ["a", "=1", ""])
def test_what_is_no_pair_is_named(pair: str) -> None:
    with pytest.raises(UsageError, match=f"--env {pair!r}: write it as name=value"):
        parse_pairs([pair], "--env")


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("false", False), ("3", 3), ("1.5", 1.5), ("zone-a", "zone-a"), ("", "")]
)
def test_labels_are_what_they_look_like(text: str, value: object) -> None:
    assert parse_label(text) == value
    assert type(parse_label(text)) is type(value)


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, "0ms"),
        (350, "350ms"),
        (2400, "2.4s"),
        (60_000, "1m0s"),
        (312_000, "5m12s"),
        (12_000_000, "3h20m"),
        (187_200_000, "2d4h"),
        (-5, "0ms"),
    ],
)
def test_durations_for_people(milliseconds: float, text: str) -> None:
    assert duration(milliseconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        ("", "-"),
        ([], "-"),
        (0, "0"),
        (["a", "b"], "a, b"),
        ({"a": 1}, "a=1"),
        ("two\nlines", "two lines"),
        ("\x1b[2Jclear", "\ufffd[2Jclear"),
        ("nul\x00 bell\x07", "nul\ufffd bell\ufffd"),
        ("right-to-left \u202e", "right-to-left \ufffd"),
        ("snow ☃", "snow ☃"),
    ],
)
def test_plain_text_holds_no_control_characters(value: object, text: str) -> None:
    assert plain(value) == text


def test_instants_are_shown_in_local_time() -> None:
    instant = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert plain(instant) == instant.astimezone().strftime("%Y-%m-%d %H:%M:%S")
