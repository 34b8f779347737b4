"""The base of every message: frozen, keyword-only, unknown fields ignored, absent ones left out.

`null` means absent (protocol, page head), so optional fields are `X | None = None` and readers apply the default.
"""

import msgspec


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A JSON object of the wire protocol."""


class Nothing(Message, frozen=True, kw_only=True):
    """An empty object: the request or answer carries no fields."""
