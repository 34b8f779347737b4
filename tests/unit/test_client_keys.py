"""The keys that the client makes for those who give none: no two alike, and in the order in which they were made."""

from callboard.bus.client_spec import make_spec, new_key


def test_no_two_are_alike() -> None:
    assert len({new_key() for _ in range(10_000)}) == 10_000


def test_they_begin_with_their_time() -> None:
    times = [new_key().partition("-")[0] for _ in range(1_000)]
    assert times == sorted(times)
    assert {len(each) for each in times} == {12}


def test_a_task_has_one_whatever_it_asks_for() -> None:
    assert make_spec("work", None, {}).key
    assert make_spec("work", None, {"role": "reader"}).key
    assert make_spec("work", None, {"role": "reader", "key": "mine"}).key == "mine"
