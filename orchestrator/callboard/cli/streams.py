"""The standard streams, so that commands can take them for granted.

Rules: a stream that is closed is as `/dev/null`, for this process and its children; no text is impossible to write;
what cannot be said on standard error is no reason to fail.
"""

import io
import os
import sys
from contextlib import suppress
from typing import TextIO


def prepare_streams() -> None:
    """Open the standard streams that are closed, and let the others write any text."""
    for name, flags in (("stdin", os.O_RDONLY), ("stdout", os.O_WRONLY), ("stderr", os.O_WRONLY)):
        stream = getattr(sys, name)
        if stream is None:
            # In this order each gets its own number, the lowest that is free: children inherit it as their own.
            number = os.open(os.devnull, flags)
            os.set_inheritable(number, True)  # noqa: FBT003 - its only argument
            setattr(sys, name, os.fdopen(number, "w" if flags else "r", errors="backslashreplace"))
        elif flags and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def write_to_stderr(line: str) -> None:
    """One line on standard error, if anybody hears it."""
    try:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
    except OSError:
        discard(sys.stderr)


def discard(stream: TextIO) -> None:
    """Let the interpreter's flush at its end go nowhere instead of failing once more."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
