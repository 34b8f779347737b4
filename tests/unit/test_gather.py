"""Gathering: nobody who is alone waits, what comes while something is under way goes together, nothing waits long."""

import asyncio
from collections.abc import Iterator

import pytest

from callboard.bus.gather import HELD_S, Gathering


class Sent:
    """What a gathering has sent, on a loop whose turns are taken one by one."""

    def __init__(self, messages: int = 1) -> None:
        self.loop = asyncio.new_event_loop()
        self.batches: list[list[str]] = []
        self.messages = messages
        self.gathering = Gathering(self.loop, self._send)

    def _send(self, items: list[str]) -> int:
        self.batches.append(items)
        return self.messages

    def put(self, *items: str) -> None:
        for item in items:
            self.gathering.put(item)

    def turn(self) -> None:
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()

    def after(self, seconds: float) -> None:
        self.loop.call_later(seconds, self.loop.stop)
        self.loop.run_forever()


@pytest.fixture
def sent() -> Iterator[Sent]:
    sent = Sent()
    yield sent
    sent.loop.close()


def test_what_one_turn_brings_goes_at_its_end(sent: Sent) -> None:
    sent.put("a", "b")
    assert sent.batches == []
    sent.turn()
    assert sent.batches == [["a", "b"]]


def test_what_comes_meanwhile_goes_with_the_answer(sent: Sent) -> None:
    sent.put("a")
    sent.turn()
    sent.put("b")
    sent.turn()
    sent.put("c")
    assert sent.batches == [["a"]]
    sent.gathering.ended()
    sent.turn()
    assert sent.batches == [["a"], ["b", "c"]]


def test_all_messages_of_a_batch_have_to_be_answered(sent: Sent) -> None:
    sent.messages = 2
    sent.put("a", "b")
    sent.turn()
    sent.put("c")
    sent.gathering.ended()
    sent.turn()
    assert sent.batches == [["a", "b"]]
    sent.gathering.ended()
    sent.turn()
    assert sent.batches == [["a", "b"], ["c"]]


def test_an_answer_that_is_long_in_coming_holds_nothing_up(sent: Sent) -> None:
    sent.put("a")
    sent.turn()
    sent.put("b")
    sent.after(2 * HELD_S)
    assert sent.batches == [["a"], ["b"]]
    sent.put("c")
    sent.gathering.ended()
    sent.turn()
    assert sent.batches == [["a"], ["b"]], "the second one is under way"
    sent.gathering.ended()
    sent.turn()
    assert sent.batches == [["a"], ["b"], ["c"]]


def test_a_flush_waits_for_nothing(sent: Sent) -> None:
    sent.put("a")
    sent.turn()
    sent.put("b")
    sent.gathering.flush()
    assert sent.batches == [["a"], ["b"]]
    sent.gathering.flush()
    sent.after(2 * HELD_S)
    assert sent.batches == [["a"], ["b"]]


def test_a_message_that_is_given_up_at_once_holds_nothing_up(sent: Sent) -> None:
    gathering = sent.gathering

    def send(items: list[str]) -> int:
        sent.batches.append(items)
        gathering.ended()
        return 1

    gathering._send = send
    sent.put("a")
    sent.turn()
    sent.put("b")
    sent.turn()
    assert sent.batches == [["a"], ["b"]]
