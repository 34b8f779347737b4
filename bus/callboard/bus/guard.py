"""Runs one command that must not outlive the process that started it.

A script, run by path as `python -I -S guard.py HOW PARENT SIGNAL UID GID LC_CTYPE COMMAND...`; see
`callboard.bus.child`. It stands between `fork` and the command because nothing safe can run there in a process with
threads: a `preexec_fn` may deadlock, and Python warns of it. It costs about 10 ms a start.

Rules:
- Privileges are dropped first: a change of user clears the parent-death signal.
- HOW is `signal` (Linux): the kernel is asked for SIGNAL at the parent's death, and this process *becomes* the command.
- HOW is `pipe` (elsewhere): this process stays, and signals the command when standard input, whose other end the parent
  holds, comes to its end. It hands on SIGINT and SIGTERM, and ends as the command ended.
- Only the standard library is imported: the file is read by an isolated interpreter.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading

PR_SET_PDEATHSIG = 1
UNSET = "-"
"""In place of UID and GID: stay who we are. In place of LC_CTYPE: it is not in the environment."""

CANNOT_RUN = 126
"""The exit code when the command was not started; the reason is on standard error."""

PIPE_GRACE_S = 10.0
"""How long an orphan may take to end in `pipe` mode before it is killed."""


def main(arguments: list[str]) -> int:
    """Drop privileges, arrange for the parent's death, run the command.

    Returns:
        The exit code, when the command could not be run or ran in `pipe` mode.
    """
    how, parent, death_signal, uid, gid, lc_ctype, *command = arguments
    try:
        if uid != UNSET:
            os.setgroups([])
            os.setgid(int(gid))
            os.setuid(int(uid))
        _restore_inherited_state(lc_ctype)
        if how == "pipe":
            return _watch_pipe(command, signal.Signals(int(death_signal)))
        _die_with(int(parent), int(death_signal))
        os.execv(command[0], command)  # noqa: S606 - the command is the parent's own argument vector, there is no shell
    except OSError as error:
        who = "" if uid == UNSET else f" as uid {uid}"
        sys.stderr.write(f"guard: cannot run {command[0]}{who}: {error}\n")
    return CANNOT_RUN


def _restore_inherited_state(lc_ctype: str) -> None:
    """Undo what this interpreter changed at its start and the command would inherit."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    # In the C locale Python sets LC_CTYPE to C.UTF-8 in its own environment (PEP 538).
    if lc_ctype == UNSET:
        os.environ.pop("LC_CTYPE", None)
    else:
        os.environ["LC_CTYPE"] = lc_ctype


def _die_with(parent: int, death_signal: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        # It died before the request was made, so no signal would ever come.
        os._exit(CANNOT_RUN)


def _watch_pipe(command: list[str], death_signal: signal.Signals) -> int:
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, close_fds=False)  # noqa: S603 - see `main`

    def on_signal(number: int, _frame: object) -> None:
        child.send_signal(number)

    def on_parent_death() -> None:
        os.read(0, 1)
        child.send_signal(death_signal)
        try:
            child.wait(PIPE_GRACE_S)
        except subprocess.TimeoutExpired:
            child.kill()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    threading.Thread(target=on_parent_death, daemon=True).start()
    status = child.wait()
    if status < 0:
        # End as the command ended, so that whoever waits for us sees its signal.
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
