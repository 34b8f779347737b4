"""All mutants."""

from typing import Final

from tests.mutants.core import CORE
from tests.mutants.shell import CLIENT, EVENTS, OWNER, SESSION, STORE

MUTANTS: Final = (*CORE, *OWNER, *STORE, *EVENTS, *SESSION, *CLIENT)
