"""The command line: every command on one screen, and the one place where errors become a line and an exit status.

Rules: a command's module is imported when it runs or shows its help, never before; standard output carries what was
asked for and nothing else; an error is one line on standard error, never a traceback.
"""

import sys
from typing import Final

from cyclopts import App, CycloptsError, Group, Parameter

from callboard.cli.exits import EXIT_HELP, ExitStatus, line_of, line_of_system, status_of, status_of_system
from callboard.cli.streams import discard, write_to_stderr
from callboard.schemas.errors import OrchestratorError


def _shown_default(value: object) -> object:
    return None if value is False else value


def _version() -> str:
    from importlib.metadata import version  # noqa: PLC0415 - costs a sixth of the start

    return version("callboard")


app = App(
    name="callboard",
    help="A message-bus driven orchestrator for fleets of agents over NATS, durable in Postgres.",
    help_epilogue=EXIT_HELP,
    help_format="plaintext",
    group_commands=Group("Options", sort_key=9),
    version=_version,
    result_action="return_value",
    suppress_keyboard_interrupt=False,
    default_parameter=Parameter(negative=(), show_default=_shown_default),
)
_SERVICE: Final = Group("Orchestrator", sort_key=1)
_TASKS: Final = Group("Tasks", sort_key=2)
_AGENTS: Final = Group("Agents", sort_key=3)
_agent = App(
    name="agent",
    help="Look at one agent, or make one of a command, an endpoint or others' agents.",
    group=_AGENTS,
)
_pool = App(name="pool", help="Pause or resume the pool.", group=_SERVICE)
_ID: Final = "01993b5e-7c1a-7bd2-8f0e-3a1f5c2d9e10"
_EXEC: Final = "callboard agent exec --capability lint -- ruff check --stdin-filename x.py -"
_LLM: Final = "callboard agent llm --base-url http://127.0.0.1:11434/v1 --model llama3.2 --capability chat"
_SERVE: Final = "NATS_URL=nats://n1:4222 DATABASE_URL=postgresql://db/callboard callboard serve"

_COMMANDS: Final = (
    # parent, name, group, module:function, example
    (app, "dev", _SERVICE, "service:dev", "callboard dev --http-port 8080"),
    (app, "serve", _SERVICE, "service:serve", _SERVE),
    (app, "migrate", _SERVICE, "service:migrate", "callboard migrate --database-url postgresql://db/callboard"),
    (app, "config", _SERVICE, "service:config", "callboard config --mode staging"),
    (app, "status", _SERVICE, "status:status", "callboard status --json"),
    (app, "demo", _SERVICE, "service:demo", "callboard demo"),
    (app, "schema", _SERVICE, "schema:schema", "callboard schema TaskSpec"),
    (app, "version", _SERVICE, "service:show_version", "callboard version"),
    (app, "submit", _TASKS, "submit:submit", """callboard submit review '{"file": "a.py"}' --priority high --wait"""),
    (app, "get", _TASKS, "tasks:get", f"callboard get {_ID} --json"),
    (app, "list", _TASKS, "tasks:list_tasks", "callboard list --state failed --limit 20"),
    (app, "wait", _TASKS, "tasks:wait", f"callboard wait {_ID} --within 5m"),
    (app, "why", _TASKS, "why:why", f"callboard why {_ID}"),
    (app, "cancel", _TASKS, "tasks:cancel", f"callboard cancel {_ID} --reason obsolete"),
    (app, "answer", _TASKS, "answer:answer", f"callboard answer {_ID} yes"),
    (app, "events", _TASKS, "events:events", "callboard events --since 1h --follow --type task.failed"),
    (app, "retry", _TASKS, "tasks:retry", f"callboard retry {_ID}"),
    (_pool, "pause", _SERVICE, "pool:pause", "callboard pool pause --type nightly"),
    (_pool, "resume", _SERVICE, "pool:resume", "callboard pool resume"),
    (app, "agents", _AGENTS, "agents:agents", "callboard agents --capability lint"),
    (_agent, "get", _AGENTS, "agents:get", "callboard agent get reviewer-1"),
    (_agent, "exec", _AGENTS, "agent_exec:agent_exec", _EXEC),
    (_agent, "llm", _AGENTS, "agent_llm:agent_llm", _LLM),
    (_agent, "synadia", _AGENTS, "agent_synadia:agent_synadia", "callboard agent synadia --only agent=claude-code"),
    (app, "gateway", _AGENTS, "gateway:gateway", "callboard gateway --owner rene --capability claude-code"),
    (app, "spawn", _AGENTS, "agents:spawn", "callboard spawn tester --capability python --slots 2"),
    (app, "shutdown", _AGENTS, "agents:shutdown", "callboard shutdown reviewer-1 --grace 10s"),
    (app, "drain", _AGENTS, "agents:drain", "callboard drain reviewer-1 --reason maintenance"),
    (app, "resume", _AGENTS, "agents:resume", "callboard resume reviewer-1"),
)
app.command(_agent)
app.command(_pool)
for _parent, _name, _group, _path, _example in _COMMANDS:
    _parent.command(f"callboard.cli.{_path}", name=_name, group=_group, help_epilogue=f"Example:\n  {_example}")


def run(tokens: list[str]) -> int:
    """Run one command line and say how it went: an `ExitStatus`, or what a command that it wraps returned."""
    try:
        status = _run(tokens)
        sys.stdout.flush()
    except BrokenPipeError:
        discard(sys.stdout)
        return ExitStatus.BROKEN_PIPE
    except SystemExit as end:
        # rich, which prints the help, makes this of a reader that has gone (`| head`).
        if isinstance(end.__context__, BrokenPipeError):
            return ExitStatus.BROKEN_PIPE
        raise
    except OSError as error:
        return _complain_of_system(error)
    return status


def _run(tokens: list[str]) -> int:
    try:
        if not set(tokens) - {_agent.name[0], *app.help_flags}:
            _load_summaries()
        outcome = app(tokens, print_error=False, exit_on_error=False)
    except CycloptsError as error:
        command = " ".join((app.name[0], *(error.command_chain or ())))
        return _complain(f"{error} (see: {command} --help)", ExitStatus.USAGE)
    except OrchestratorError as error:
        return _complain(line_of(error), status_of(error))
    except UnicodeEncodeError as error:
        return _complain(f"not UTF-8: {error.object!r}", ExitStatus.USAGE)
    except KeyboardInterrupt:
        return ExitStatus.INTERRUPTED
    return outcome if isinstance(outcome, int) else ExitStatus.OK


def _load_summaries() -> None:
    """A list of commands shows the first line of each one's docstring: for that alone all their modules are loaded."""
    for parent, name, *_ in _COMMANDS:
        parent.__getitem__(name)


def _complain(line: str, status: ExitStatus) -> int:
    sys.stdout.flush()
    write_to_stderr(f"callboard: {_one_line(line)}")
    return status


def _complain_of_system(error: OSError) -> int:
    try:
        sys.stdout.flush()
    except OSError as unwritten:
        # What could not be written is still there: it was the output that failed.
        discard(sys.stdout)
        return _complain(f"{line_of_system(unwritten)}: standard output", status_of_system(unwritten))
    return _complain(line_of_system(error), status_of_system(error))


def _one_line(text: str) -> str:
    return " ".join(text.split())
