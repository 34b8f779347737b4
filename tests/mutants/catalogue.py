"""All mutants."""

from typing import Final

from tests.mutants.core import CORE
from tests.mutants.shell import OWNER, SESSION, STORE

MUTANTS: Final = (*CORE, *OWNER, *STORE, *SESSION)
