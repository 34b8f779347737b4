"""An agent of the protocol as an agent of a pool: from its discovery record to id, capabilities, labels, metadata.

Nothing of a record is trusted beyond what it is used for: names are made to fit ours, and what cannot be used is left
out, but for the metadata, which is shown as it is.
"""

import hashlib
import re
from dataclasses import dataclass
from typing import Any, Final

from callboard.agents.synadia.wire import INBOX, PROTOCOL_VERSION, ServiceInfo, size_of
from callboard.schemas.names import is_name
from callboard.schemas.subjects import DEFAULT_PREFIX

OURS: Final = "callboard"
"""The `agent` of our own gateways: a pool that dispatched to one would dispatch to itself, be it over another pool."""
CAPABILITY: Final = "synadia"
"""What all of these agents can."""

_ID: Final = 64
_PREFIX: Final = "synadia"
_FOREIGN: Final = re.compile(r"[^A-Za-z0-9_-]")
_MAJOR_MINOR: Final = re.compile(r"(\d+\.\d+)")
_METADATA: Final = 64
"""Entries of its metadata that are passed on, each with at most so many characters:"""
_CHARACTERS: Final = 256


class UnfitError(ValueError):
    """Not an agent that tasks can be given to; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One instance of an agent, and where it is prompted.

    Attributes:
        subject: of its `prompt` endpoint, as it says: subjects are never made up (section 4.3).
        max_payload: bytes of a prompt; `None` when it does not say.
    """

    instance_id: str
    subject: str
    agent_id: str
    capabilities: tuple[str, ...]
    labels: dict[str, str]
    metadata: dict[str, str]
    version: str
    max_payload: int | None
    attachments_ok: bool


def peer_of(info: ServiceInfo, *, prefix: str = DEFAULT_PREFIX) -> Peer:
    """The agent that a record describes; `prefix` is the first token of our own subjects.

    Raises:
        UnfitError: it is none, speaks another version, or may not be prompted by us.
    """
    metadata = {str(key): _text(value) for key, value in (info.metadata or {}).items()}
    agent, owner, version = (metadata.get(key, "") for key in ("agent", "owner", "protocol_version"))
    if not (agent and owner and info.id):
        raise UnfitError("its record has no agent, owner or id")
    found = _MAJOR_MINOR.match(version)
    if found is None or found[1] != PROTOCOL_VERSION:
        raise UnfitError(f"it speaks version {version!r}, not {PROTOCOL_VERSION}")
    if agent == OURS:
        raise UnfitError("it is a pool, not an agent")
    prompt = next((endpoint for endpoint in info.endpoints or () if endpoint.name == "prompt"), None)
    if prompt is None or not prompt.subject:
        raise UnfitError("it has no prompt endpoint")
    if prompt.subject.startswith((f"{prefix}.", "$", INBOX)):
        # Whoever says that he is an agent must not have us say things where only we may.
        raise UnfitError(f"its prompt subject is {prompt.subject[:80]!r}, which is no agent's")
    about: dict[str, Any] = prompt.metadata or {}
    if _text(about.get("min_sender_trust", "any")) != "any":
        raise UnfitError("it wants signed prompts, and we sign none")
    tokens = prompt.subject.split(".")
    name = tokens[4] if len(tokens) == 5 and tokens[:2] == ["agents", "prompt"] else metadata.get("session", "")  # noqa: PLR2004 - agents, prompt, agent, owner, name
    named = {"agent": agent, "owner": owner, "name": name}
    return Peer(
        instance_id=info.id,
        subject=prompt.subject,
        agent_id=agent_id_of(agent, owner, name or prompt.subject),
        capabilities=_capabilities(agent, metadata),
        labels={key: value for key, value in {**metadata, **named}.items() if is_name(key) and value},
        metadata=_shown({"subject": prompt.subject, "description": info.description, **metadata}),
        version=info.version,
        max_payload=size_of(about.get("max_payload")),
        attachments_ok=_text(about.get("attachments_ok", "")) == "true",
    )


def agent_id_of(agent: str, owner: str, name: str) -> str:
    """An id of ours for theirs: `synadia-<agent>-<owner>-<name>`, readable where it can be, and never two alike."""
    plain = f"{_PREFIX}-{agent}-{owner}-{name}"
    fit = _FOREIGN.sub("_", plain)
    # Hyphens may be anywhere in the parts: only where none is there, the parts can be told apart.
    is_plain = fit == plain and len(plain) <= _ID and not any("-" in part for part in (owner, name))
    if is_plain:
        return plain
    digest = hashlib.blake2b(f"{agent}.{owner}.{name}".encode(), digest_size=4).hexdigest()
    return f"{fit[: _ID - len(digest) - 1]}-{digest}"


def _shown(metadata: dict[str, str]) -> dict[str, str]:
    return {key: _text(value) for key, value in list(metadata.items())[:_METADATA]}


def _capabilities(agent: str, metadata: dict[str, str]) -> tuple[str, ...]:
    """What it can: its harness's name, and whatever its metadata lists as `capabilities`, with commas."""
    listed = [part.strip() for part in metadata.get("capabilities", "").split(",")]
    return tuple(dict.fromkeys(part for part in (CAPABILITY, agent, *listed) if is_name(part)))


def _text(value: object) -> str:
    """A metadata value: strings, though a record may hold booleans."""
    text = value if isinstance(value, str) else str(value).lower() if isinstance(value, bool | int | float) else ""
    return text.replace("\0", "")[:_CHARACTERS]
