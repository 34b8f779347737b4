"""What one needs to connect to NATS, checked before anything is dialled; `context.py` reads it from the environment.

Secrets never show in `repr`, in a reason or in a log line.
"""

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from callboard.bus.wire import is_subject
from callboard.schemas.errors import ConfigurationError

DEFAULT_URL: Final = "nats://127.0.0.1:4222"
DEFAULT_PORT: Final = 4222
_SCHEMES: Final = frozenset({"nats", "tls"})


@dataclass(frozen=True, slots=True, kw_only=True)
class BusOptions:
    """Servers, credentials and the pace of one connection.

    `servers` are URLs, tried in turn from a random one on; list every server of a cluster, since addresses gossiped by
    servers are not used.
    User and password may stand in a URL; a user alone is a token there, as everywhere in NATS.

    Attributes:
        creds: path of a credentials file (a JWT and its seed).
        nkey: path of an nkey's seed.
        inbox_prefix: replies arrive below it; an agent's user may listen to `_INBOX.<agent_id>` only.
        connect_timeout_s: for one attempt at one server, name resolution and TLS included.
        ping_interval_s: silence of two intervals loses the connection.
        retry_min_s: the back-off between rounds over all servers doubles from here, with full jitter,
        retry_max_s: up to here.
    """

    servers: tuple[str, ...] = field(default=(DEFAULT_URL,), repr=False)
    name: str = "callboard"
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    creds: Path | None = None
    nkey: Path | None = None
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_first: bool = False
    inbox_prefix: str = "_INBOX"
    connect_timeout_s: float = 5.0
    ping_interval_s: float = 5.0
    retry_min_s: float = 0.1
    retry_max_s: float = 5.0

    def __post_init__(self) -> None:
        if not self.servers:
            raise ConfigurationError("no NATS server is given: set NATS_URL", path="servers")
        for url in self.servers:
            _split(url)
        if not is_subject(self.inbox_prefix):
            message = (
                f"not a prefix for inboxes: {self.inbox_prefix!r}; write it like _INBOX.reviewer-1, no dot at its end"
            )
            raise ConfigurationError(message, path="inbox_prefix")
        if self.tls_key and not self.tls_cert:
            message = f"a TLS key without its certificate: {self.tls_key}; set NATS_CERT too, or leave both out"
            raise ConfigurationError(message, path="tls_key")

    @property
    def wants_tls(self) -> bool:
        """Whether anything asks for TLS; as with the `nats` command, every server is to speak it then."""
        return bool(
            self.tls_ca or self.tls_cert or self.tls_first or any(_split(url).scheme == "tls" for url in self.servers)
        )

    @property
    def addresses(self) -> tuple[str, ...]:
        """`host:port` of every server, fit to be shown."""
        return tuple(address(url) for url in self.servers)

    def ssl_context(self) -> ssl.SSLContext | None:
        """The TLS set-up, `None` when nothing asks for one (a server that requires TLS then gets the system's).

        Raises:
            ConfigurationError: a certificate or key cannot be read.
        """
        if not self.wants_tls:
            return None
        try:
            context = ssl.create_default_context(cafile=self.tls_ca)
        except OSError as error:
            raise ConfigurationError(f"cannot read the CA file {self.tls_ca}: {error}", path="tls_ca") from None
        if self.tls_cert:
            try:
                context.load_cert_chain(self.tls_cert, self.tls_key)
            except OSError as error:
                message = f"cannot read the certificate {self.tls_cert} or its key {self.tls_key}: {error}"
                raise ConfigurationError(message, path="tls_cert") from None
        return context


def servers_of(text: str) -> tuple[str, ...]:
    """The URLs in a text that holds one, or several parted by commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def address(url: str) -> str:
    """`host:port` of a server's URL, without user and password."""
    parts = _split(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{host}:{parts.port or DEFAULT_PORT}"


@dataclass(frozen=True, slots=True)
class DialTarget:
    """A server's URL with scheme and port spelt out, and the credentials that stood in it."""

    url: str
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)


def dial_target(url: str) -> DialTarget:
    """What to dial for a configured URL; a user without a password is a token."""
    parts = _split(url)
    bare = f"{parts.scheme}://{address(url)}"
    if parts.username is None:
        return DialTarget(bare)
    user = unquote(parts.username)
    return DialTarget(bare, token=user) if parts.password is None else DialTarget(bare, user, unquote(parts.password))


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url if "://" in url else f"nats://{url}")
        # Reading the port is what checks it.
        valid = parts.scheme in _SCHEMES and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid, parts = False, SplitResult("", "", "", "", "")
    if not valid:
        shown = url.rpartition("@")[2]
        raise ConfigurationError(f"not a NATS server: {shown!r}; write nats://host:port", path="servers")
    return parts
