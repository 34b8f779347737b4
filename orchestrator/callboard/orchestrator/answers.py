"""How many documents go into one answer: as many as fit, at least one. The caller asks again for the others.

At least one, since by the limits of sizes one alone always fits into NATS' 1 MiB, and an answer without any would have
the caller ask for ever.
"""

from collections.abc import Iterable, Iterator
from typing import Final, TypeVar

import msgspec

from callboard.schemas.codec import encode

D = TypeVar("D")

ANSWER_BYTES: Final = 512 * 1024
"""Documents in one answer to `tasks.wait_many`, `tasks.list` and `agents.list`."""


def fitting(documents: Iterable[D]) -> Iterator[tuple[D, msgspec.Raw]]:
    """The first of `documents` that fit into one answer, each with its JSON: whoever measured need not encode again."""
    size = 0
    for document in documents:
        data = encode(document)
        size += len(data)
        if size > max(ANSWER_BYTES, len(data)):
            return
        yield document, msgspec.Raw(data)
