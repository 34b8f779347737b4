"""The command about the contract: schema."""

from importlib.resources import files
from importlib.resources.abc import Traversable

from callboard.cli.exits import UsageError
from callboard.cli.output import print_line, print_table
from callboard.schemas.operations import OPERATIONS


def schema(name: str | None = None, /) -> None:
    """Print the wire contract for programs: JSON Schemas, golden messages, the AsyncAPI document.

    Args:
        name: A message (TaskSpec) for its JSON Schema, an operation (tasks.submit) for examples of what is right and
            what is refused, or asyncapi; without it, a list of them.
    """
    if name is None:
        rows = [
            (one.name, one.message.__name__, one.answer.__name__ if one.answer else None, one.summary)
            for one in OPERATIONS
        ]
        print_table(("operation", "message", "answer", "meaning"), rows)
        return
    found = _artefacts().get(name)
    if found is None:
        raise UsageError(f"no message or operation is called {name!r} (see: callboard schema)")
    print_line(found.read_text(encoding="utf-8").rstrip("\n"))


def _artefacts() -> dict[str, Traversable]:
    """Every file of the contract by the name that it is asked for: messages and operations share none."""
    root = files("callboard.schemas")
    every = [root / "asyncapi.json", *(root / "json").iterdir(), *(root / "golden").iterdir()]
    return {file.name.removesuffix(".json"): file for file in every}
