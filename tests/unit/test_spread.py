"""How pools spread over replicas: evenly, in few moves, and then never again."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from callboard.orchestrator.spread import Move, Standing, heirs, next_move

POOLS = st.frozensets(st.sampled_from("abcdefgh"), min_size=1)


def standing(holder: str, owns: str = "", would_serve: str = "", *, stays: str = "") -> Standing:
    return Standing(
        holder=holder,
        owns=frozenset(owns),
        would_serve=frozenset(would_serve),
        may_move=frozenset(owns) - frozenset(stays),
    )


def moved(standings: list[Standing], move: Move) -> list[Standing]:
    """The replicas after a move."""
    pool = {move.pool}
    after = []
    for each in standings:
        owns, would_serve = each.owns, each.would_serve
        if each.holder == move.giver:
            owns, would_serve = owns - pool, would_serve | pool
        elif each.holder == move.taker:
            owns, would_serve = owns | pool, would_serve - pool
        after.append(msgspec.structs.replace(each, owns=owns, would_serve=would_serve, may_move=owns))
    return after


def test_a_newcomer_is_given_a_pool_of_the_most_loaded() -> None:
    standings = [standing("a", "wx", "yz"), standing("b", "yz", "wx"), standing("c", "", "wxyz")]
    assert next_move(standings) == Move("w", "a", "c")


def test_nothing_moves_where_that_would_only_turn_the_tables() -> None:
    assert next_move([standing("a", "wx", "y"), standing("b", "y", "wx")]) is None


def test_what_must_stay_is_not_moved() -> None:
    assert next_move([standing("a", "wx", stays="wx"), standing("b", "", "wx")]) is None
    assert next_move([standing("a", "wx", stays="w"), standing("b", "", "wx")]) == Move("x", "a", "b")


def test_nobody_is_given_a_pool_that_it_does_not_stand_for() -> None:
    assert next_move([standing("a", "wx"), standing("b", "", "y")]) is None


def test_free_pools_are_shared_out_among_the_least_loaded() -> None:
    standings = [standing("a", "v", "wxyz"), standing("b", "", "wxyz")]
    assert heirs(standings) == {"w": "b", "x": "a", "y": "b", "z": "a"}


def test_the_giver_is_not_the_heir_of_what_it_gave() -> None:
    given_up = moved([standing("a", "xy"), standing("b", "", "xy")], Move("x", "a", "nobody"))
    assert heirs(given_up) == {"x": "b"}


@given(st.lists(POOLS, min_size=1, max_size=5), st.data())
def test_moving_ends_and_leaves_no_two_that_could_be_evened(stands: list[frozenset[str]], data: st.DataObject) -> None:
    owner = {
        pool: data.draw(st.sampled_from([n for n, stand in enumerate(stands) if pool in stand]), label=pool)
        for pool in sorted(frozenset[str]().union(*stands))
    }
    owns = [frozenset(pool for pool, owned_by in owner.items() if owned_by == n) for n in range(len(stands))]
    standings = [
        Standing(holder=f"r{n}", owns=owns[n], would_serve=stand - owns[n], may_move=owns[n])
        for n, stand in enumerate(stands)
    ]
    moves = 0
    while (move := next_move(standings)) is not None:
        standings = moved(standings, move)
        moves += 1
        assert moves <= len(owner) ** 2 / 2  # each move lowers the sum of the squared loads by two at least
    for giver in standings:
        for taker in standings:
            if giver.owns & taker.would_serve:
                assert len(giver.owns) - len(taker.owns) < 2
    if len(set(stands)) == 1:
        loads = [len(each.owns) for each in standings]
        assert max(loads) - min(loads) <= 1
