from __future__ import annotations

from callboard.orchestrator.agent_output import LINE_BYTES, LINES_PER_SECOND, AgentOutput
from callboard.orchestrator.supervised import RestartPolicy


class _Heard:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.dropped: list[int] = []
        self.output = AgentOutput(self.lines.append, self.dropped.append)


def test_lines_are_put_together_from_pieces() -> None:
    heard = _Heard()
    for piece in (b"on", b"e\r\ntw", b"o\n\n", b"three"):
        heard.output.feed(piece, 1.0)
    assert heard.lines == ["one", "two"]
    heard.output.close()
    assert heard.lines == ["one", "two", "three"]


def test_a_character_split_between_pieces_is_whole() -> None:
    heard = _Heard()
    for byte in "grüße\n".encode():
        heard.output.feed(bytes([byte]), 1.0)
    assert heard.lines == ["grüße"]


def test_bytes_that_are_not_text_do_no_harm() -> None:
    heard = _Heard()
    heard.output.feed(b"\xff\x00ok\n", 1.0)
    assert heard.lines == ["\ufffd\x00ok"]


def test_long_lines_are_cut_also_without_an_end() -> None:
    heard = _Heard()
    for _ in range(10):
        heard.output.feed(b"x" * LINE_BYTES, 1.0)
    heard.output.feed(b"\nnext\n", 1.0)
    assert heard.lines == ["x" * LINE_BYTES, "next"]


def test_too_many_lines_in_a_second_are_counted_and_dropped() -> None:
    heard = _Heard()
    heard.output.feed(b"line\n" * (LINES_PER_SECOND + 5), 1.0)
    assert len(heard.lines) == LINES_PER_SECOND
    assert heard.dropped == []
    heard.output.feed(b"line\n", 2.0)
    assert len(heard.lines) == LINES_PER_SECOND + 1
    assert heard.dropped == [5]
    heard.output.close()
    assert heard.dropped == [5]


def test_the_back_off_doubles_up_to_its_limit() -> None:
    policy = RestartPolicy(first_ms=500, max_ms=3000)
    assert [policy.delay_ms(deaths) for deaths in (1, 2, 3, 4, 1000)] == [500, 1000, 2000, 3000, 3000]
