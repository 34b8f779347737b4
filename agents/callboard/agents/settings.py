"""Who an agent is: what its program says, else what the environment says (`CALLBOARD_…`), else a default.

A launcher sets the variables for the agents that it spawns. A mistake in them is a `ConfigurationError` that names the
value.
"""

import os
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from callboard.schemas.agents import Register
from callboard.schemas.codec import decode
from callboard.schemas.errors import ConfigurationError, InvalidRequestError
from callboard.schemas.labels import Labels, LabelValue
from callboard.schemas.names import is_name, is_pool
from callboard.schemas.subjects import DEFAULT_POOL, DEFAULT_PREFIX, Subjects
from callboard.schemas.tasks import AttemptRef

_LABELS: Final = msgspec.json.Decoder(Labels)
MAX_SLOTS: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """One incarnation of an agent, as it presents itself."""

    agent_id: str
    incarnation: str
    subjects: Subjects
    role: str | None
    capabilities: tuple[str, ...]
    labels: Mapping[str, LabelValue]
    slots: int
    version: str | None
    metadata: Mapping[str, str]

    def register(self, running: tuple[AttemptRef, ...], *, draining: bool) -> Register:
        """The request that signs this incarnation in."""
        return Register(
            incarnation=self.incarnation,
            role=self.role,
            capabilities=list(self.capabilities),
            labels=dict(self.labels),
            slots=self.slots,
            version=self.version,
            metadata=dict(self.metadata),
            running=list(running),
            draining=draining,
            batches=True,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings:
    """What may be told of an agent; `None` asks the environment."""

    agent_id: str | None = None
    role: str | None = None
    capabilities: Iterable[str] | None = None
    labels: Mapping[str, LabelValue] | None = None
    slots: int | None = None
    pool: str | None = None
    prefix: str | None = None
    version: str | None = None
    metadata: Mapping[str, str] | None = None

    def identity(self, environment: Mapping[str, str] | None = None) -> Identity:
        """A new incarnation.

        Raises:
            ConfigurationError: something given, or found in the environment, cannot be used.
        """
        env = os.environ if environment is None else environment
        capabilities = self.capabilities
        if capabilities is None:
            capabilities = [part.strip() for part in env.get("CALLBOARD_CAPABILITIES", "").split(",") if part.strip()]
        pool = self.pool or env.get("CALLBOARD_POOL") or DEFAULT_POOL
        if not is_pool(pool):
            raise ConfigurationError(f"not a pool: {pool!r}; use 1 to 32 of a-z, 0-9, '-' and '_'")
        prefix = self.prefix or env.get("CALLBOARD_PREFIX") or DEFAULT_PREFIX
        role = self.role or env.get("CALLBOARD_ROLE") or None
        agent_id = self.agent_id or env.get("CALLBOARD_AGENT_ID") or f"agent-{uuid.uuid4().hex[:12]}"
        return Identity(
            agent_id=_name("an agent id", agent_id),
            incarnation=str(uuid.uuid4()),
            subjects=Subjects(pool, _name("a prefix", prefix)),
            role=None if role is None else _name("a role", role),
            capabilities=tuple(_name("a capability", one) for one in dict.fromkeys(capabilities)),
            labels=_labels(env) if self.labels is None else self.labels,
            slots=_slots(env) if self.slots is None else _checked_slots(self.slots, "slots"),
            version=self.version,
            metadata=self.metadata or {},
        )


def _name(what: str, value: str) -> str:
    if not is_name(value):
        raise ConfigurationError(f"not {what}: {value!r}; use 1 to 64 letters, digits, '-' and '_'")
    return value


def _slots(env: Mapping[str, str]) -> int:
    text = env.get("CALLBOARD_SLOTS") or "1"
    if not (text.isascii() and text.isdigit()):
        raise ConfigurationError(f"CALLBOARD_SLOTS is not a number: {text!r}")
    return _checked_slots(int(text), "CALLBOARD_SLOTS")


def _checked_slots(slots: int, what: str) -> int:
    if not 1 <= slots <= MAX_SLOTS:
        raise ConfigurationError(f"{what} must be from 1 to {MAX_SLOTS}, not {slots}")
    return slots


def _labels(env: Mapping[str, str]) -> Mapping[str, LabelValue]:
    text = env.get("CALLBOARD_LABELS")
    if not text:
        return {}
    try:
        return decode(_LABELS, text.encode())
    except InvalidRequestError as error:
        raise ConfigurationError(f"CALLBOARD_LABELS: {error.message}") from None
