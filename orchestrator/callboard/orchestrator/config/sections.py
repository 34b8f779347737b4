"""The nested groups of settings: how to reach NATS, size limits, and the roles that can be spawned."""

from typing import Annotated

from msgspec import Meta

from callboard.orchestrator.config.base import Settings
from callboard.schemas import limits
from callboard.schemas.names import Name, Pool, Slots

# A name that the launcher itself sets is not for the taking: `env` could give an agent another identity.
EnvName = Annotated[str, Meta(pattern=r"^(?!CALLBOARD_|NATS_)[A-Za-z_][A-Za-z0-9_]*\Z")]
Argument = Annotated[str, Meta(pattern=r"^[^\x00]*\Z")]
Command = Annotated[tuple[Argument, ...], Meta(min_length=1)]
Bytes = Annotated[int, Meta(ge=1, le=64 * 1024 * 1024)]

StreamName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z")]

SECRET = {"secret": "all"}
SECRET_IN_URL = {"secret": "url"}


class NatsSettings(Settings, frozen=True, kw_only=True):
    """How to reach NATS: the names and meanings of the `nats` command line's variables."""

    url: Annotated[
        str | None, Meta(description="Server addresses, comma separated (`NATS_URL`)", extra=SECRET_IN_URL)
    ] = None
    context: Annotated[str | None, Meta(description="Name of a context file of the `nats` CLI (`NATS_CONTEXT`)")] = None
    creds: Annotated[str | None, Meta(description="Path of a credentials file (`NATS_CREDS`)")] = None
    nkey: Annotated[str | None, Meta(description="Path of an nkey seed file (`NATS_NKEY`)")] = None
    user: Annotated[str | None, Meta(description="User name (`NATS_USER`)")] = None
    password: Annotated[str | None, Meta(description="Password (`NATS_PASSWORD`)", extra=SECRET)] = None
    token: Annotated[str | None, Meta(description="Token (`NATS_TOKEN`)", extra=SECRET)] = None
    cert: Annotated[str | None, Meta(description="Path of the TLS client certificate (`NATS_CERT`)")] = None
    key: Annotated[str | None, Meta(description="Path of the TLS client key (`NATS_KEY`)")] = None
    ca: Annotated[str | None, Meta(description="Path of the TLS certificate authority (`NATS_CA`)")] = None
    inbox_prefix: Annotated[
        str, Meta(description="First tokens of this connection's inboxes (`NATS_INBOX_PREFIX`)", min_length=1)
    ] = "_INBOX"


class SizeLimits(Settings, frozen=True, kw_only=True):
    """How large the parts of a message may be, in bytes of JSON (protocol, section 2, `payload_too_large`)."""

    payload_bytes: Annotated[Bytes, Meta(description="A task's payload")] = limits.PAYLOAD_BYTES
    result_bytes: Annotated[Bytes, Meta(description="A task's result")] = limits.RESULT_BYTES
    text_bytes: Annotated[Bytes, Meta(description="A task's description and metadata together")] = limits.TEXT_BYTES
    progress_bytes: Annotated[Bytes, Meta(description="The data of a progress report")] = limits.PROGRESS_BYTES
    error_bytes: Annotated[Bytes, Meta(description="The error of a failed attempt")] = limits.ERROR_BYTES


class EventSettings(Settings, frozen=True, kw_only=True):
    """Where events are kept for consumers that were away (protocol, section 5)."""

    stream: Annotated[
        StreamName | None, Meta(description="JetStream stream that keeps all events; made when missing; none: not kept")
    ] = None
    max_age_seconds: Annotated[
        int, Meta(description="How long it keeps an event; 0: no limit", ge=0, le=10 * 365 * 86_400)
    ] = 7 * 86_400
    max_bytes: Annotated[int, Meta(description="How much it keeps; 0: no limit", ge=0)] = 1024 * 1024 * 1024
    max_messages: Annotated[int, Meta(description="How many events it keeps; 0: no limit", ge=0)] = 0
    replicas: Annotated[int, Meta(description="Servers of a NATS cluster that keep it", ge=1, le=5)] = 1


class IntakeSettings(Settings, frozen=True, kw_only=True):
    """Tasks from the messages of a JetStream stream (protocol, section 4)."""

    stream: Annotated[
        StreamName | None, Meta(description="JetStream stream whose messages become tasks; none: no intake")
    ] = None
    subjects: Annotated[
        tuple[str, ...], Meta(description="Its subjects; with them the stream is made when missing")
    ] = ()
    pool: Annotated[Pool, Meta(description="The pool that takes them")] = "default"
    consumer: Annotated[StreamName, Meta(description="The durable consumer's name")] = "callboard"
    type: Annotated[Name | None, Meta(description="The type of a task whose message names none")] = None
    dead_letters: Annotated[
        str | None, Meta(description="Subject for messages that are no tasks; none: `<prefix>.v1.<pool>.intake.dead`")
    ] = None


class RoleSettings(Settings, frozen=True, kw_only=True):
    """How agents of a role are started by `agents.spawn` (protocol, section 5)."""

    command: Annotated[
        Command | None, Meta(description="Argument vector of the agent; without one the built-in echo agent runs")
    ] = None
    slots: Annotated[Slots, Meta(description="Tasks at once, unless the request says otherwise")] = 1
    env_allow: Annotated[
        tuple[EnvName, ...], Meta(description="Variables that a request may set (`env` of `agents.spawn`)")
    ] = ()
    env_inherit: Annotated[
        tuple[EnvName, ...], Meta(description="Variables of the orchestrator that the agent sees too, such as API keys")
    ] = ()
    grace_seconds: Annotated[
        float, Meta(description="Time between SIGTERM and SIGKILL, unless the request says otherwise", ge=0, le=3600)
    ] = 10.0
