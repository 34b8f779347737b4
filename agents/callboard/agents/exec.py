"""Any command as an agent.

- Arguments, input and variables may be templates with fields of the task (`callboard.agents.templates`); what a field
  may not do there is the rule of `callboard.agents.invocation`.
- Standard input, unless given: the text of a payload that is a JSON string; nothing for `null`; else its JSON.
- Standard output: the result, as text (bytes that are not UTF-8 replaced), or parsed with `output="json"`, where
  anything that is not JSON fails the task: who asks for JSON shall not get text now and then.
- Standard error: lines of it may be progress (`callboard.agents.progress_lines`).
- Exit status 0 is success; another, or a signal, fails the attempt with the end of standard error as message.
- Environment: the agent's, the variables given, and `CALLBOARD_TASK_ID`, `CALLBOARD_ATTEMPT`, `CALLBOARD_TASK_TYPE`.
- Working directory: the agent's, or with `workdir` a new one for each run, removed after it.
- The command leads a process group. Cancel, time-out and too much output end the group (SIGTERM, grace, SIGKILL); what
  the command leaves running is ended when it has ended; all of it dies with the agent, however that dies.
"""

from collections.abc import Iterable, Mapping, Sequence

from callboard.agents.agent import Agent
from callboard.agents.command import Command, Output
from callboard.agents.handlers import ANY
from callboard.bus.options import BusOptions
from callboard.schemas.labels import LabelValue
from callboard.schemas.limits import RESULT_BYTES


class ExecAgent:
    """An agent whose every task runs one command.

    Args:
        command: the program and its arguments, as templates; no shell.
        agent_id, capabilities, role, slots, labels, pool, prefix: as `Agent`; slots are runs at once.
        task_types: the types to take; any by default, so that capabilities alone decide.
        stdin: a template of the command's input; the payload by default.
        env: templates of variables, by name.
        workdir: whether each run gets a working directory of its own.
        progress: what a line of standard error begins with to be progress, `""` for all; none by default.
        output: `text`, or `json` to parse standard output.
        timeout_s: how long one run may take.
        grace_s: between SIGTERM and SIGKILL.
        max_output_bytes: of standard output; the orchestrator has a limit of its own.

    Raises:
        ConfigurationError: there is no such program, a template is wrong, or as `Agent`.
    """

    def __init__(
        self,
        command: Sequence[str],
        agent_id: str | None = None,
        *,
        capabilities: Iterable[str] | None = None,
        role: str | None = None,
        slots: int | None = None,
        labels: Mapping[str, LabelValue] | None = None,
        pool: str | None = None,
        prefix: str | None = None,
        task_types: Iterable[str] = (ANY,),
        stdin: str | None = None,
        env: Mapping[str, str] | None = None,
        workdir: bool = False,
        progress: str | None = None,
        output: Output = "text",
        timeout_s: float | None = None,
        grace_s: float = 5.0,
        max_output_bytes: int = RESULT_BYTES,
    ) -> None:
        run = Command(
            argv=tuple(command),
            stdin=stdin,
            env=env or {},
            workdir=workdir,
            progress=progress,
            output=output,
            timeout_s=timeout_s,
            grace_s=grace_s,
            max_output_bytes=max_output_bytes,
        )
        self.agent = Agent(
            agent_id, capabilities=capabilities, role=role, slots=slots, labels=labels, pool=pool, prefix=prefix
        )
        for task_type in task_types:
            self.agent.task(task_type)(run)

    async def run(self, url: str | BusOptions | None = None) -> None:
        """Serve until drained, shut down or stopped; see `Agent.run`."""
        await self.agent.run(url)
