"""SIGTERM and SIGINT: the first drains, the second stops, the third does what it did before.

Plain handlers, not the event loop's: they run in the main thread even while a handler blocks the loop there.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def leave_signals_to_others() -> None:
    """Have no signal delivered to the calling thread, so that the main thread is the one that is woken by it.

    Only for a thread that starts no process: those would inherit it.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


@contextmanager
def ending_on_signals(drain: Callable[[], None], stop: Callable[[], None]) -> Iterator[None]:
    """Have the signals call these, within the block; does nothing outside the main thread, where Python allows none."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received = 0
    previous: dict[signal.Signals, Any] = {}

    def restore() -> None:
        while previous:
            number, handler = previous.popitem()
            signal.signal(number, handler)

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        nonlocal received
        received += 1
        if received == 1:
            drain()
        else:
            stop()
            restore()

    for number in _SIGNALS:
        previous[number] = signal.signal(number, on_signal)
    try:
        yield
    finally:
        restore()
