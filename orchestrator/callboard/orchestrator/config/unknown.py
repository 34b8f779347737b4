"""What is said of a setting that there is none of: the one that was meant, else all."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from callboard.orchestrator.config.environment import variable_of
from callboard.orchestrator.config.fields import fields_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    import msgspec


def unknown(name: str, struct: type[msgspec.Struct]) -> str:
    """The message for a `name` that `struct` has no field of."""
    # A group and its setting parted by one underscore is the commonest slip: so paths are compared with those.
    known = {path.replace(".", "_"): path for path in _paths(struct)}
    nearest = difflib.get_close_matches(name, known, n=1)
    if not nearest:
        nearest = [each for each in known if f"_{name}_" in f"_{each}_"]
    if len(nearest) == 1:
        path = known[nearest[0]]
        variable = f" ({variable_of(path)})" if "." in path else ""
        return f"unknown setting, did you mean {path!r}{variable}?"
    return f"unknown setting; known are {', '.join(sorted(fields_of(struct)))}"


def _paths(struct: type[msgspec.Struct]) -> Iterator[str]:
    """The names of its settings and groups, and of what is in the groups: `nats`, `nats.url`."""
    for name, field in fields_of(struct).items():
        yield name
        if field.group is not None and not field.is_table:
            yield from (f"{name}.{below}" for below in _paths(field.group))
