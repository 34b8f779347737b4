"""The base of all settings: frozen, keyword-only, strict, and shown without its secrets, also in a traceback."""

import msgspec

from callboard.orchestrator.config.fields import fields_of
from callboard.orchestrator.config.secrets import hide


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A group of settings."""

    def __repr__(self) -> str:
        shown = (f"{name}={hide(getattr(self, name), field.secret)!r}" for name, field in fields_of(type(self)).items())
        return f"{type(self).__name__}({', '.join(shown)})"
