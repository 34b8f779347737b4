"""The command that submits a task."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from cyclopts import Parameter, Token

from callboard.cli.connection import HERE, Connection, connected, run
from callboard.cli.exits import ExitStatus, UsageError
from callboard.cli.output import print_json, print_line, print_note
from callboard.cli.values import DurationMs, FilePath, MaxAttempts, Names, Strategy, Text, parse_pairs
from callboard.schemas.tasks import NULL
from callboard.schemas.vocabulary import TaskPriority

_GLIMPSE: Final = 40


def _no_option(_type: Any, tokens: Sequence[Token]) -> str:  # noqa: ANN401 - the converter's contract
    """A payload may begin with a hyphen (`-`, `-1`), but none with two: that is an option with a slip in its name."""
    text = tokens[0].value
    if text.startswith("--"):
        raise ValueError(f"unknown option {text!r}; a payload that begins so can be given as standard input, with -")
    return text


def submit(
    type: str,  # noqa: A002 - the protocol's field
    payload: Annotated[str | None, Parameter(converter=_no_option, n_tokens=1, allow_leading_hyphen=True)] = None,
    /,
    *,
    file: Annotated[FilePath | None, Parameter(name=("--file", "-f"))] = None,
    text: bool = False,
    description: str | None = None,
    priority: TaskPriority | None = None,
    capability: Names = None,
    role: str | None = None,
    agent: str | None = None,
    key: Text | None = None,
    metadata: Names = None,
    strategy: Strategy = None,
    max_attempts: MaxAttempts | None = None,
    delay: DurationMs | None = None,
    ttl: DurationMs | None = None,
    run_timeout: DurationMs | None = None,
    progress_timeout: DurationMs | None = None,
    wait: bool = False,
    within: DurationMs | None = None,
    json: bool = False,
    to: Connection = HERE,
) -> int:
    """Submit a task and print its id; once that is printed, the task is committed.

    Args:
        type: What kind of work: the name that agents handle.
        payload: The payload as JSON, or - to read it from standard input; null when there is none.
        file: Read the payload from this file instead.
        text: The payload is plain text, not JSON: it is sent as a JSON string.
        description: A sentence for people and agents.
        priority: How urgent: strictly the highest first.
        capability: Only an agent with this capability may take it; may be repeated.
        role: Only an agent of this role may take it.
        agent: Only this agent may take it.
        key: Idempotency key: the same key and content again is the same task.
        metadata: A further name=value; may be repeated.
        strategy: How its agent is chosen; by default as the pool does.
        max_attempts: How many attempts may fail; 3 by default.
        delay: Start no earlier than this from now, e.g. 10s.
        ttl: Expire when not finished this long from now, e.g. 5m.
        run_timeout: The longest that one attempt may take.
        progress_timeout: The longest that an attempt may be silent.
        wait: Wait for its end, showing progress, and print its result.
        within: With --wait: how long to wait at most.
        json: Print the answer (with --wait the task) as one JSON document.
        to: How the orchestrator is reached.
    """
    if within is not None and not wait:
        raise UsageError("--within bounds a wait: give --wait too")
    raw = _payload(payload, file, text=text)

    async def ask() -> int:
        async with connected(to) as client:
            answer = await client.submit(
                type,
                raw,
                timeout_s=to.timeout_s,
                description=description,
                metadata=parse_pairs(metadata, "--metadata"),
                priority=priority,
                key=key,
                role=role,
                agent_id=agent,
                capabilities=capability,
                strategy=strategy,
                max_attempts=max_attempts,
                run_timeout_ms=run_timeout,
                progress_timeout_ms=progress_timeout,
                ttl_ms=ttl,
                delay_ms=delay,
            )
            if not answer.created:
                print_note(f"this key has its task already: {answer.task_id} is {answer.state}")
            if not answer.satisfiable:
                print_note("no agent known could take it yet, so it waits for one; see: callboard agents")
            if not wait:
                print_json(answer) if json else print_line(answer.task_id)
                return ExitStatus.OK
            from callboard.cli.follow import follow  # noqa: PLC0415 - only for a wait

            return await follow(client, answer.task_id, within_ms=within, json=json, patience_s=to.timeout_s)

    return run(ask())


def _payload(argument: str | None, file: Path | None, *, text: bool) -> msgspec.Raw:
    """The payload as JSON, from wherever it was given.

    Raises:
        UsageError: it was given twice, cannot be read, or is not JSON.
    """
    if argument is None and file is None:
        return NULL
    where, data = _read_payload(argument, file)
    try:
        if text:
            return msgspec.Raw(msgspec.json.encode(data.decode()))
        msgspec.json.decode(data)
    except UnicodeDecodeError as error:
        raise UsageError(f"{where} is not UTF-8: byte {error.start}") from None
    except (msgspec.DecodeError, RecursionError) as error:
        shown = data[:_GLIMPSE].decode(errors="replace") + ("…" if len(data) > _GLIMPSE else "")
        raise UsageError(f"{where} is not JSON: {error}: {shown!r}; for plain text add --text") from None
    return msgspec.Raw(data.strip())


def _read_payload(argument: str | None, file: Path | None) -> tuple[str, bytes]:
    """What the payload's source is called, and its bytes."""
    if file is not None:
        if argument is not None:
            raise UsageError("give the payload as an argument or with --file, not both")
        try:
            return f"the file {file}", file.read_bytes()
        except OSError as error:
            raise UsageError(f"--file {file}: {error.strerror}") from None
    if argument == "-":
        return "standard input", sys.stdin.buffer.read()
    # Bytes of the command line that are not UTF-8 come as surrogates, and go back to what they were.
    return "the payload", (argument or "").encode(errors="surrogateescape")
