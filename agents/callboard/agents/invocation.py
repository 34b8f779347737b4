"""What a command is called with for one task: its arguments, its input, its variables.

A task must not reach further than the command's author meant it to:

- No shell reads an argument, and a field stays within the one argument in which it stands.
- The program is not the task's to choose, nor the script of a shell or interpreter (`sh -c`): refused from the start.
- A field cannot become an option: an argument that begins with one, before a `--` of the command's own, must not begin
  with `-` once it is filled in.
- Arguments and variables that have fields are bounded together, the input alone.
"""

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from callboard.agents.context import TaskContext
from callboard.agents.templates import Template, refused, text_of
from callboard.schemas.errors import ConfigurationError

FILLED_BYTES: Final = 64 * 1024
"""Of all arguments and variables that have fields together; Linux takes 128 KiB for one."""
INPUT_BYTES: Final = 1024 * 1024

_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OURS: Final = "CALLBOARD_"
_INTERPRETER: Final = re.compile(r"(ba|da|k|z|fi)?sh|python[0-9.]*|perl|ruby|node")
_VALUED_OPTIONS: Final = frozenset({"-o", "+o", "-O", "+O", "-W", "-X"})
"""Of shells and Python: what follows is no script."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a command."""

    argv: tuple[str, ...]
    stdin: bytes
    env: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Invocation:
    """Makes the call for a task."""

    argv: tuple[Template, ...]
    stdin: Template | None
    env: Mapping[str, Template]

    @classmethod
    def parse(cls, argv: tuple[str, ...], stdin: str | None, env: Mapping[str, str]) -> Self:
        """Read the templates.

        Raises:
            ConfigurationError: there is no such program, or a template is wrong or where none may be.
        """
        if not argv:
            raise ConfigurationError("no command is given")
        program = _program(argv[0])
        arguments = tuple(Template.parse(text, f"argument {number}") for number, text in enumerate(argv[1:], 1))
        _refuse_templates_in_scripts(argv[0], arguments)
        return cls(
            (Template(program, (program,)), *arguments),
            None if stdin is None else Template.parse(stdin, "the input"),
            {_variable(name): Template.parse(text, f"variable {name}") for name, text in env.items()},
        )

    def of(self, ctx: TaskContext) -> Call:
        """The call for this task.

        Raises:
            TaskFailed: it cannot be called for it, of type `invalid_payload`, not to be retried.
        """
        argv, room, options_end = [], FILLED_BYTES, False
        for number, template in enumerate(self.argv):
            where = f"argument {number}"
            value = template.fill(ctx)
            if template.has_fields:
                room = _within(room, value, where)
                if template.begins_with_field and not options_end and value.startswith("-"):
                    advice = "the command can take it after -- or on its input"
                    raise refused(f"{where} would be taken for an option, {value[:40]!r}: {advice}")
            options_end = options_end or template.text == "--"
            argv.append(value)
        env: dict[str, str] = {}
        for name, template in self.env.items():
            env[name] = template.fill(ctx)
            room = _within(room, env[name], f"variable {name}") if template.has_fields else room
        return Call(tuple(argv), self._input(ctx), {**os.environ, **env, **_task_variables(ctx)})

    def _input(self, ctx: TaskContext) -> bytes:
        if self.stdin is None:
            payload = ctx.payload
            return text_of(payload).encode() if payload is None or isinstance(payload, str) else ctx.raw_payload
        data = self.stdin.fill(ctx).encode()
        if len(data) > INPUT_BYTES:
            raise refused(f"the input would be {len(data)} bytes, at most {INPUT_BYTES} are allowed")
        return data


def _program(name: str) -> str:
    if shutil.which(name) is None:
        raise ConfigurationError(f"no such command: {name!r}")
    # A path is meant from here, not from a task's directory.
    return str(Path(name).absolute()) if os.sep in name else name


def _variable(name: str) -> str:
    if not _VARIABLE.fullmatch(name):
        raise ConfigurationError(f"not a variable's name: {name!r}; use letters, digits and '_'")
    if name.startswith(_OURS):
        raise ConfigurationError(f"variable {name}: the names that begin with {_OURS} are the agent's")
    return name


def _refuse_templates_in_scripts(program: str, arguments: tuple[Template, ...]) -> None:
    """Who may write a part of a script may write all of it. A guard against a slip: `env sh -c` passes it."""
    name = Path(program).name
    if not _INTERPRETER.fullmatch(name):
        return
    is_value = False
    for number, argument in enumerate(arguments, 1):
        if argument.has_fields:
            advice = f"""give it as an argument: {name} -c 'echo "$1"' x {{payload}}"""
            raise ConfigurationError(f"argument {number}: no field may be part of what {name} runs; {advice}")
        if not is_value and not argument.text.startswith(("-", "+")):
            # The script: what stands behind it are its arguments.
            return
        is_value = argument.text in _VALUED_OPTIONS


def _task_variables(ctx: TaskContext) -> dict[str, str]:
    return {
        "CALLBOARD_TASK_ID": ctx.task_id,
        "CALLBOARD_ATTEMPT": str(ctx.attempt),
        "CALLBOARD_TASK_TYPE": ctx.type,
    }


def _within(room: int, value: str, where: str) -> int:
    """The room that is left."""
    if "\0" in value:
        raise refused(f"{where} would hold a NUL character, which no command can be given")
    left = room - len(value.encode())
    if left < 0:
        raise refused(f"{where} makes arguments and variables more than {FILLED_BYTES} bytes; use the input")
    return left
