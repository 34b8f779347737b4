"""Where log lines go when nobody said: standard error, so that what a program prints stays its own.

Tracebacks show no local variables: they hold payloads and secrets, and to print large ones takes minutes.
"""

import logging
import os
import sys

import structlog


def default_to_standard_error() -> None:
    """Have structlog write to standard error, from `info` up, unless the program has set it up."""
    if not structlog.is_configured():
        write_to_standard_error(logging.INFO)


def write_to_standard_error(level: int) -> None:
    """Have structlog write to standard error, from `level` up, for people: coloured only on a terminal that can."""
    colours = sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.StackInfoRenderer(),
            structlog.dev.set_exc_info,
            structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S", utc=False),
            structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=structlog.dev.plain_traceback),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
