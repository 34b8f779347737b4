"""A version that the `nats` command does not hide."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard.bus.micro import semantic_version
from callboard.bus.serve import header_text

SEMVER = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(\+[0-9A-Za-z-]+)?", re.ASCII)


@pytest.mark.parametrize(
    ("version", "semantic"),
    [
        ("1.2.3", "1.2.3"),
        ("0.1", "0.1.0"),
        ("7", "7.0.0"),
        ("0.1.0.dev3", "0.1.0+dev3"),
        ("1.0rc1", "1.0.0+rc1"),
        ("1.0.0+g12.d3", "1.0.0+g12-d3"),
        ("01.2.3", "1.2.3"),
        ("unknown", "0.0.0"),
        ("", "0.0.0"),
    ],
)
def test_semantic_version(version: str, semantic: str) -> None:
    assert semantic_version(version) == semantic


@given(st.text())
def test_every_version_becomes_one(version: str) -> None:
    assert SEMVER.fullmatch(semantic_version(version))


@given(st.text())
def test_a_header_text_is_one_short_line_of_printable_ascii(text: str) -> None:
    line = header_text(text)
    assert 0 < len(line) <= 256
    assert line.isascii()
    assert line.isprintable()
    assert line == line.strip()
