"""How to connect, as the `nats` command finds it out: `NATS_*` variables over a context file over the local server.

The context is `NATS_CONTEXT` (a name, or the path of a `.json` file), else the selected one in
`$XDG_CONFIG_HOME/nats/context.txt` (`~/.config` by default). A variable replaces the field of the context that it
names. One way to sign in is used: user before credentials file before nkey, as the `nats` command chooses.

What the `nats` command can do and we cannot (secrets from a vault, a proxy) is refused by name, never ignored: a
context must not lead to another server, or to an anonymous session, than it does there.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from callboard.bus.options import DEFAULT_URL, BusOptions, servers_of
from callboard.schemas.errors import ConfigurationError

_VARIABLES: Final = {
    "NATS_URL": "url",
    "NATS_USER": "user",
    "NATS_PASSWORD": "password",
    "NATS_TOKEN": "token",
    "NATS_CREDS": "creds",
    "NATS_NKEY": "nkey",
    "NATS_CERT": "cert",
    "NATS_KEY": "key",
    "NATS_CA": "ca",
    "NATS_JWT": "user_jwt",
    "NATS_SEED": "user_seed",
    "NATS_SOCKS_PROXY": "socks_proxy",
    "NATS_INBOX_PREFIX": "inbox_prefix",
}
"""Variable to field. `NATS_INBOX_PREFIX` is ours: the `nats` command has only the option."""

_UNSUPPORTED: Final = {
    "nsc": "put the credentials file into creds",
    "user_jwt": "put the JWT and its seed into a credentials file and name it in creds",
    "user_seed": "put the JWT and its seed into a credentials file and name it in creds",
    "socks_proxy": "connect without a proxy",
    "windows_cert_store": "use cert, key and ca",
}
_PATHS: Final = ("creds", "nkey", "cert", "key", "ca")
_SECRETS: Final = ("password", "token")
_SCHEME: Final = re.compile(r"([a-z][a-z0-9+.-]*):(?=//)|(data):")

Environment = Mapping[str, str]


class ContextFile(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The fields of a context file that matter here; the others are the `nats` command's own."""

    url: str = ""
    user: str = ""
    password: str = ""
    token: str = ""
    creds: str = ""
    nkey: str = ""
    cert: str = ""
    key: str = ""
    ca: str = ""
    inbox_prefix: str = ""
    tls_first: bool = False
    nsc: str = ""
    user_jwt: str = ""
    user_seed: str = ""
    socks_proxy: str = ""
    windows_cert_store: str = ""

    def __repr__(self) -> str:
        return f"<ContextFile {', '.join(name for name in self.__struct_fields__ if getattr(self, name))}>"


def options_from_environment(
    environment: Environment | None = None, *, url: str | None = None, name: str = "callboard"
) -> BusOptions:
    """What the environment says about NATS.

    Args:
        environment: `os.environ` by default.
        url: replaces the servers, several parted by commas; everything else still holds.
        name: how the connection calls itself.

    Raises:
        ConfigurationError: a file cannot be read or a field cannot be used; it names both.
    """
    env = os.environ if environment is None else environment
    context, origin = _load(env)
    origins = dict.fromkeys(context.__struct_fields__, origin)
    for variable, field in _VARIABLES.items():
        if value := env.get(variable):
            setattr(context, field, value)
            origins[field] = variable
    if url:
        context.url = url
    for field, remedy in _UNSUPPORTED.items():
        if getattr(context, field):
            raise ConfigurationError(f"{origins[field]}: {field} is not supported: {remedy}", path=field)
    for field in _SECRETS:
        _refuse_reference(getattr(context, field), field, origins[field])
    paths = {field: _path(getattr(context, field), field, origins[field], env) for field in _PATHS}
    token = context.token or None
    user = context.user or None
    if user and not context.password:
        # The `nats` command reads a user without a password as a token.
        user, token = None, user
    return BusOptions(
        servers=servers_of(context.url or DEFAULT_URL),
        name=name,
        user=user,
        password=context.password or None if user else None,
        token=token,
        creds=None if user else paths["creds"],
        nkey=None if user or paths["creds"] else paths["nkey"],
        tls_ca=paths["ca"],
        tls_cert=paths["cert"],
        tls_key=paths["key"],
        tls_first=context.tls_first,
        inbox_prefix=context.inbox_prefix or "_INBOX",
    )


def context_path(name: str, environment: Environment | None = None) -> Path:
    """Where the context `name` is kept.

    Raises:
        ConfigurationError: `name` cannot be the name of a file.
    """
    return _context_path(name, _config_home(os.environ if environment is None else environment))


def write_context(name: str, *, url: str, description: str = "", environment: Environment | None = None) -> Path:
    """Write a context that `nats --context <name>` uses, readable by its owner only; its path.

    Raises:
        ConfigurationError: `name` cannot be the name of a file, or the file cannot be written.
    """
    path = context_path(name, environment)
    data = msgspec.json.format(msgspec.json.encode({"description": description, "url": url}))
    draft = path.with_suffix(".draft")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft.unlink(missing_ok=True)
        draft.touch(mode=0o600)
        draft.write_bytes(data)
        draft.replace(path)
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error.strerror}") from None
    return path


def _load(env: Environment) -> tuple[ContextFile, str]:
    """The context and where it came from; an empty one when none is asked for or selected."""
    home = _config_home(env)
    asked = env.get("NATS_CONTEXT", "")
    if asked.endswith(".json") and Path(asked).is_file():
        path = Path(asked)
    elif name := asked or _selected(home):
        path = _context_path(name, home)
    else:
        return ContextFile(), "context"
    return _read(path), str(path)


def _read(path: Path) -> ContextFile:
    try:
        return msgspec.json.decode(path.read_bytes(), type=ContextFile)
    except OSError as error:
        raise ConfigurationError(f"cannot read the NATS context {path}: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the NATS context {path} is not understood: {error}") from None


def _selected(home: Path) -> str:
    """The name in `context.txt`, empty when nothing is selected."""
    try:
        return (home / "nats" / "context.txt").read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _context_path(name: str, home: Path) -> Path:
    if not name or ".." in name or "/" in name or "\\" in name or "\x00" in name:
        raise ConfigurationError(f"not the name of a NATS context: {name!r}", path="NATS_CONTEXT")
    return home / "nats" / "context" / f"{name}.json"


def _config_home(env: Environment) -> Path:
    return Path(env.get("XDG_CONFIG_HOME") or Path(env.get("HOME") or Path.home()) / ".config")


def _path(value: str, field: str, origin: str, env: Environment) -> Path | None:
    """An existing file, `~` and variables expanded; `None` when nothing is given."""
    if not value:
        return None
    plain = value.removeprefix("file://")
    _refuse_reference(plain, field, origin)
    expanded = re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda found: env.get(found[1] or found[2], ""), plain)
    path = Path(expanded).expanduser()
    if not path.is_file():
        raise ConfigurationError(f"{origin}: {field} names no file: {path}", path=field)
    return path


def _refuse_reference(value: str, field: str, origin: str) -> None:
    """`op://…`, `env://…` and the like are resolved by the `nats` command only."""
    if found := _SCHEME.match(value):
        scheme = found[1] or found[2]
        raise ConfigurationError(f"{origin}: {field} is a {scheme}: reference, which is not supported", path=field)
