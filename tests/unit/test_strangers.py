"""Who is a stranger, and who of two leaves."""

from __future__ import annotations

from callboard.orchestrator.spread import Standing
from callboard.orchestrator.strangers import conflict, is_stranger, must_leave, shared_pool


def standing(
    holder: str = "r", *, store: str | None = None, since_ms: int = 0, owns: str = "", would: str = ""
) -> Standing:
    return Standing(
        holder=holder,
        owns=frozenset(owns.split()),
        would_serve=frozenset(would.split()),
        may_move=frozenset(),
        store=store,
        since_ms=since_ms,
    )


def test_only_another_identity_that_is_known_makes_a_stranger() -> None:
    assert is_stranger(standing(store="b"), "a")
    assert not is_stranger(standing(store="a"), "a")
    assert not is_stranger(standing(store=None), "a")
    assert not is_stranger(standing(store="b"), None)


def test_a_pool_is_shared_by_who_has_it_and_who_would() -> None:
    assert shared_pool(standing(owns="x y"), frozenset({"y"})) == "y"
    assert shared_pool(standing(would="x"), frozenset({"x", "y"})) == "x"
    assert shared_pool(standing(owns="x", would="z"), frozenset({"y"})) is None


def test_exactly_one_of_two_leaves_the_later_one() -> None:
    first, second = standing("b", since_ms=1), standing("a", since_ms=2)
    assert must_leave(second, first)
    assert not must_leave(first, second)
    same = standing("a", since_ms=1)
    assert must_leave(first, same) is not must_leave(same, first)


def test_the_error_says_which_pool_and_who() -> None:
    error = conflict("default", standing("node-1-af"))
    assert "pool default is served from another database, by replica node-1-af" in error.message
    assert error.details == {"pool": "default", "replica": "node-1-af"}
