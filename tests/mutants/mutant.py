"""A mutant: the sources without one safeguard, made by a patch that production code knows nothing of."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

SEEDS: Final = 400
"""So many schedules may pass before a mutant counts as not seen by the simulation."""


class PatchError(Exception):
    """The text to be replaced is not there, or not only there: the safeguard has moved, and the mutant must follow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One safeguard, and how to remove it.

    Attributes:
        safeguard: what is removed, as its name in the table.
        path: the file, below the repository's root.
        old: text that is there exactly once.
        new: what stands there instead.
        tests: what must notice: test files or tests, for pytest; empty if the simulation does.
        simulated: whether the simulation must notice, too.
    """

    safeguard: str
    path: str
    old: str
    new: str
    tests: tuple[str, ...] = ()
    simulated: bool = False

    def mutated(self, root: Path) -> str:
        """The file's text without the safeguard.

        Raises:
            PatchError: the old text is not there exactly once.
        """
        text = (root / self.path).read_text()
        found = text.count(self.old)
        if found != 1:
            raise PatchError(f"{self.safeguard}: found {found} times in {self.path}:\n{self.old}")
        return text.replace(self.old, self.new)

    def apply(self, root: Path) -> None:
        """Remove the safeguard from the sources below `root`.

        Raises:
            PatchError: as `mutated`.
        """
        (root / self.path).write_text(self.mutated(root))
