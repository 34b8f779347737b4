"""What goes together: everything, in order, in lists that fit."""

import pytest

from callboard.bus.gather import gathered
from callboard.schemas.limits import GATHERED


@pytest.mark.parametrize(
    ("sizes", "cut"),
    [
        ([], []),
        ([5], [[5]]),
        ([99], [[99]]),
        ([4, 6, 1], [[4, 6], [1]]),
        ([99, 1, 99], [[99], [1], [99]]),
        ([1] * (GATHERED + 1), [[1] * 10] * (GATHERED // 10) + [[1] * (GATHERED % 10 + 1)]),
    ],
)
def test_it_is_cut_by_bytes(sizes: list[int], cut: list[list[int]]) -> None:
    assert list(gathered(sizes, lambda size: size, most_bytes=10)) == cut


def test_it_is_cut_by_number() -> None:
    assert [len(batch) for batch in gathered(range(2 * GATHERED + 1), lambda _: 0)] == [GATHERED, GATHERED, 1]
