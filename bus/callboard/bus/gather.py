"""Cutting what goes together into messages: submits, offers and reports alike."""

from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeVar

from callboard.schemas.limits import GATHERED

T = TypeVar("T")

BATCH_BYTES: Final = 512 * 1024
"""NATS takes messages of 1 MiB unless configured otherwise."""


def gathered(items: Iterable[T], size_of: Callable[[T], int], *, most_bytes: int = BATCH_BYTES) -> Iterator[list[T]]:
    """`items` in their order, in lists of at most `GATHERED` items and `most_bytes` bytes; a larger item is alone."""
    batch: list[T] = []
    total = 0
    for item in items:
        size = size_of(item)
        if batch and (len(batch) == GATHERED or total + size > most_bytes):
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += size
    if batch:
        yield batch
