"""Text with fields of a task in it: `--file={payload.path}`.

- A field is `{payload}`, `{payload.files.0.name}`, `{metadata.key}` or one of `{task_id}`, `{attempt}`, `{type}`,
  `{description}`, `{priority}`; `{{` and `}}` are braces. Below the payload, a name is a key and a number an index.
- A text is put in as it is, null as nothing, all else as its JSON: the same as for standard input.
- What is put in is never read again: a payload that holds a template stays what it is.
- A template that cannot be right is refused when it is read. A field that a task does not have fails that task.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from callboard.agents.context import TaskContext
from callboard.agents.errors import TaskFailed
from callboard.schemas.codec import encode
from callboard.schemas.errors import ConfigurationError

_PLAIN: Final = ("task_id", "attempt", "type", "description", "priority")
_FIELDS: Final = ", ".join(f"{{{name}}}" for name in ("payload", "payload.NAME", "metadata.NAME", *_PLAIN))
_TOKEN: Final = re.compile(r"(?P<text>[^{}]+)|(?P<brace>\{\{|\}\})|\{(?P<field>[^{}]*)\}|(?P<stray>[{}])")
_INDEX: Final = re.compile(r"0|[1-9][0-9]{0,8}")


@dataclass(frozen=True, slots=True)
class Field:
    """A part of a task: `payload`, below it `path`."""

    root: str
    path: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The field of this name, `None` when a task has none."""
        root, dot, below = text.partition(".")
        if root in _PLAIN:
            return None if dot else cls(root, ())
        if root == "metadata":
            # A key of metadata may hold dots, and there is nothing below it.
            return cls(root, (below,)) if below else None
        path = tuple(below.split(".")) if dot else ()
        return cls(root, path) if root == "payload" and all(path) else None

    def of(self, ctx: TaskContext) -> str:
        """Its text.

        Raises:
            TaskFailed: the task has none, of type `invalid_payload`, not to be retried.
        """
        value: Any = getattr(ctx, self.root)
        for step in self.path:
            try:
                value = _below(value, step)
            except LookupError:
                name = ".".join((self.root, *self.path))
                raise refused(f"the task has no {{{name}}}: there is no {step!r}") from None
        return text_of(value)


@dataclass(frozen=True, slots=True)
class Template:
    """A text with fields; `parts` in their order."""

    text: str
    parts: tuple[str | Field, ...]

    @classmethod
    def parse(cls, text: str, where: str) -> Self:
        """Read a template.

        Args:
            text: the template.
            where: it stands, for the error.

        Raises:
            ConfigurationError: a brace that is neither doubled nor around a field.
        """
        parts: list[str | Field] = []
        for token in _TOKEN.finditer(text):
            if token["stray"]:
                raise ConfigurationError(
                    f"{where}: a single {token['stray']!r} in {text!r}; for a brace write it twice"
                )
            if token["field"] is None:
                parts.append(token["text"] or token["brace"][0])
                continue
            field = Field.parse(token["field"])
            if field is None:
                known = f"a field is one of {_FIELDS}; for a brace write it twice"
                raise ConfigurationError(f"{where}: no task has a field {token[0]!r}; {known}")
            parts.append(field)
        return cls(text, tuple(parts))

    @property
    def has_fields(self) -> bool:
        """Whether what it makes depends on the task."""
        return any(isinstance(part, Field) for part in self.parts)

    @property
    def begins_with_field(self) -> bool:
        """Whether the task decides how it begins."""
        return bool(self.parts) and isinstance(self.parts[0], Field)

    def fill(self, ctx: TaskContext) -> str:
        """The text for this task.

        Raises:
            TaskFailed: the task lacks a field.
        """
        return "".join(part if isinstance(part, str) else part.of(ctx) for part in self.parts)


def text_of(value: object) -> str:
    """A text as it is, nothing for null, all else as JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else encode(value).decode()


def refused(message: str) -> TaskFailed:
    """What a task gets that can never be run as it is."""
    return TaskFailed(message, type="invalid_payload", retryable=False)


def _below(value: object, step: str) -> object:
    if isinstance(value, list) and _INDEX.fullmatch(step):
        return value[int(step)]
    if isinstance(value, Mapping):
        return value[step]
    raise LookupError(step)
