"""The command that turns a chat endpoint into an agent."""

import os
from functools import partial
from typing import Annotated, Final

from cyclopts import Parameter

from callboard.cli.connection import HERE, Connection
from callboard.cli.exits import UsageError
from callboard.cli.serving import SOMEBODY, AgentOptions, serve
from callboard.cli.values import DurationMs, Text
from callboard.schemas.errors import ConfigurationError

_KEY: Final = "OPENAI_API_KEY"


def agent_llm(
    *,
    model: Text,
    base_url: Annotated[Text, Parameter(env_var="OPENAI_BASE_URL")] = "https://api.openai.com/v1",
    key_env: Text | None = None,
    stream: Annotated[bool, Parameter(negative="--no-stream")] = True,
    run_timeout: DurationMs | None = None,
    idle_timeout: DurationMs = 120_000,
    who: AgentOptions = SOMEBODY,
    to: Connection = HERE,
) -> None:
    """Put each task to a chat endpoint that speaks OpenAI's API, as an agent, until interrupted.

    The payload is a prompt, or an object with messages and further fields of
    the request, e.g. temperature; the result has text, model, finish_reason and
    usage. Text that comes is progress. A 429 is tried again when the server
    asks for it, a 5xx after the task's back-off, any other 4xx not at all.

    What is not given of an agent is taken from the CALLBOARD_ variables that a
    spawned one gets.

    Args:
        model: The model that is asked.
        base_url: The server: what stands before /chat/completions.
        key_env: The variable that holds the key; OPENAI_API_KEY by default, if it is set.
        stream: Ask for the answer in chunks; --no-stream for servers that do not know how.
        run_timeout: How long one answer may take, e.g. 5m.
        idle_timeout: How long the server may say nothing.
        who: The agent.
        to: How the orchestrator is reached.
    """
    key = os.environ.get(key_env or _KEY)
    if key_env and not key:
        raise UsageError(f"--key-env {key_env!r}: there is no such variable, or it is empty")
    try:
        from callboard.agents.llm import LlmAgent  # noqa: PLC0415 - optional, and not needed for --help
    except ModuleNotFoundError as error:
        if error.name != "httpx2":
            raise
        raise ConfigurationError("httpx2 is not installed: pip install 'callboard[llm]'") from None
    make = partial(
        LlmAgent,
        base_url,
        model,
        api_key=key,
        stream=stream,
        timeout_s=None if run_timeout is None else run_timeout / 1000,
        idle_timeout_s=idle_timeout / 1000,
    )
    serve(make, who, to)
