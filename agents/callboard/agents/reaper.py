"""Kills the process groups that an agent leaves behind when it dies without a word.

A script, run by path as `python -I -S reaper.py` (see `callboard.agents.groups`), in a session of its own. Standard
input is a pipe whose other end the agent holds: `+<group>` and `-<group>` a line, and its end is the agent's end,
however it came. A pipe and not a parent-death signal, since that reaches one process and no group, and only on Linux.
"""

import contextlib
import os
import signal
import sys


def main() -> None:
    """Keep the list until the pipe ends, then kill what is left on it."""
    groups: set[int] = set()
    for line in sys.stdin.buffer:
        sign, number = line[:1], int(line[1:])
        if sign == b"+":
            groups.add(number)
        else:
            groups.discard(number)
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    with contextlib.suppress(PermissionError):  # we lead a session already
        os.setsid()
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Meant for the agent, whose end is what counts here.
        signal.signal(ignored, signal.SIG_IGN)
    main()
