"""Where log lines go when nobody said: standard error, so that what a program prints stays its own."""

import logging
import sys

import structlog


def default_to_standard_error() -> None:
    """Have structlog write to standard error, from `info` up, unless the program has set it up."""
    if not structlog.is_configured():
        structlog.configure(
            wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
            logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        )
