"""What comes from asyncpg, which ships no types."""

from typing import Any, TypeAlias

PgConnection: TypeAlias = Any
Record: TypeAlias = Any
"""A row: values by name and by place."""
