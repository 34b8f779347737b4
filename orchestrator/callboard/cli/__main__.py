"""The process `callboard`, also as `python -m callboard.cli`: from its first moment to its last.

Rules: while modules are loaded, and when all is said, Ctrl-C has nothing to put away and ends the process at once;
between, it is the command's. So nothing but this is imported before it is settled.
"""

import os
import signal
import sys
from types import FrameType
from typing import Final

_INTERRUPTED: Final = 130
"""`ExitStatus.INTERRUPTED`, whose module is not loaded yet."""


def main() -> None:
    """The entry point: runs the command line of this process and exits."""
    # Whoever started us may have it ignored; that stays.
    heeds_interrupts = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if heeds_interrupts:
        signal.signal(signal.SIGINT, _leave)
    from callboard.cli.main import run  # noqa: PLC0415 - see the module's rule
    from callboard.cli.streams import prepare_streams  # noqa: PLC0415 - the same

    prepare_streams()
    try:
        if heeds_interrupts:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        status = run(sys.argv[1:])
        if heeds_interrupts:
            signal.signal(signal.SIGINT, _leave)
    except KeyboardInterrupt:
        # Before the command began, or after it had flushed what it said.
        os._exit(_INTERRUPTED)
    sys.exit(status)


def _leave(_number: int, _frame: FrameType | None) -> None:
    os._exit(_INTERRUPTED)


if __name__ == "__main__":
    main()
