"""Every mutant can still be made. Whether it is caught: `make mutants`."""

import ast
from pathlib import Path

import pytest
from tests.mutants.catalogue import MUTANTS
from tests.mutants.mutant import Mutant, PatchError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.safeguard)
def test_its_patch_applies(mutant: Mutant) -> None:
    mutated = mutant.mutated(ROOT)
    assert mutated != (ROOT / mutant.path).read_text()
    ast.parse(mutated)
    assert mutant.tests or mutant.simulated, "somebody must notice"
    for test in mutant.tests:
        assert (ROOT / test.partition("::")[0]).exists()


def test_each_has_a_name_and_there_are_enough() -> None:
    assert len({mutant.safeguard for mutant in MUTANTS}) == len(MUTANTS) >= 25


def test_a_patch_whose_text_is_gone_fails() -> None:
    gone = Mutant(safeguard="none", path="pyproject.toml", old="no such text", new="")
    with pytest.raises(PatchError, match="none: found 0 times"):
        gone.mutated(ROOT)
