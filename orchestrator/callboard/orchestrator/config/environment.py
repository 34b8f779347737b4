"""Settings from environment variables: `CALLBOARD_<SETTING>`, groups by a double underscore, and the usual names.

Rules:
- `CALLBOARD_NATS__URL` is `nats.url`; `CALLBOARD_ROLES__REVIEWER__COMMAND` is `roles.reviewer.command` (such roles are
  lower case; others come from the file).
- A list is comma separated, or JSON when it starts with `[`; a table is JSON.
- An empty variable counts as absent: `compose` and its like set what they cannot fill to the empty text.
- `NATS_*` and `DATABASE_URL` are read as other tools name them; their `CALLBOARD_` forms win.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, get_args, get_origin

import msgspec

from callboard.orchestrator.config.fields import Field, fields_of
from callboard.orchestrator.config.mistakes import Mistake

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX: Final = "CALLBOARD_"

USUAL_NAMES: Final = {
    "NATS_URL": "nats.url",
    "NATS_CONTEXT": "nats.context",
    "NATS_CREDS": "nats.creds",
    "NATS_NKEY": "nats.nkey",
    "NATS_USER": "nats.user",
    "NATS_PASSWORD": "nats.password",
    "NATS_TOKEN": "nats.token",
    "NATS_CERT": "nats.cert",
    "NATS_KEY": "nats.key",
    "NATS_CA": "nats.ca",
    "NATS_INBOX_PREFIX": "nats.inbox_prefix",
    "DATABASE_URL": "database_url",
}
"""Variable of other tools to the setting's path."""

NOT_SETTINGS: Final = frozenset(
    f"{PREFIX}{name}" for name in ("CONFIG", "POOL", "AGENT_ID", "ROLE", "CAPABILITIES", "SLOTS", "LABELS")
)
"""What the command line and agents read; an operator's shell may hold them too."""

# Kubernetes gives every container these for a Service called `callboard`.
_SERVICE_LINK: Final = re.compile(
    r"CALLBOARD_(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP)(_(PROTO|PORT|ADDR))?)?)\Z"
)


def variable_of(path: str) -> str:
    """The variable that sets `path`."""
    return PREFIX + path.upper().replace(".", "__")


def from_environment(
    struct: type[msgspec.Struct], environ: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, str], list[Mistake]]:
    """The settings that `environ` holds.

    Returns:
        The raw tree, the variable of each path, and what could not be read.
    """
    tree: dict[str, Any] = {}
    variables: dict[str, str] = {}
    mistakes: list[Mistake] = []
    usual = [(variable, path.split(".")) for variable, path in USUAL_NAMES.items()]
    own = [(name, _path(name)) for name in sorted(environ) if _is_setting(name)]
    for variable, path in usual + own:
        text = environ.get(variable, "")
        if not text:
            continue
        try:
            _put(tree, path, _parse(text, _find(struct, path)))
        except (msgspec.DecodeError, TypeError) as error:
            mistakes.append(Mistake(path=".".join(path), message=str(error), source=f"environment {variable}"))
        else:
            variables[".".join(path)] = variable
    return tree, variables, mistakes


def _is_setting(variable: str) -> bool:
    return variable.startswith(PREFIX) and variable not in NOT_SETTINGS and not _SERVICE_LINK.match(variable)


def _path(variable: str) -> list[str]:
    return variable.removeprefix(PREFIX).lower().split("__")


def _find(struct: type[msgspec.Struct], path: list[str]) -> Field | None:
    """The field at `path`; none for an unknown one, which the check reports, and for an entry of a table."""
    field = fields_of(struct).get(path[0])
    if field is None or field.group is None or len(path) == 1:
        return field if len(path) == 1 else None
    below = path[2:] if field.is_table else path[1:]
    return _find(field.group, below) if below else None


def _parse(text: str, field: Field | None) -> object:
    if field is None or field.group is not None:
        return msgspec.json.decode(text) if text.lstrip().startswith("{") else text
    if not _is_list(field.type):
        return text
    if text.lstrip().startswith("["):
        return msgspec.json.decode(text)
    return [item.strip() for item in text.split(",")]


def _is_list(hint: Any) -> bool:  # noqa: ANN401 - an annotation is any object
    return get_origin(hint) is tuple or any(_is_list(part) for part in get_args(hint))


def _put(tree: dict[str, Any], path: list[str], value: object) -> None:
    *groups, name = path
    for group in groups:
        tree = tree.setdefault(group, {})
        if not isinstance(tree, dict):
            raise TypeError(f"{group} is set as a whole and in parts")
    tree[name] = value
