"""The log: one stream of events, for people (console) or programs (JSON lines), on standard error.

Rules:
- What belongs to an event is bound by keyword, never put into its text: `pool`, `agent_id`, `task_id`, `attempt`.
- Libraries log through `logging`; their records come out in the same form.
- Tracebacks show no local variables: they hold payloads and secrets.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Any, TextIO

import structlog

from callboard.orchestrator.config import LogFormat, LogLevel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from callboard.orchestrator.config import OrchestratorConfig

LEVELS = {
    LogLevel.DEBUG: logging.DEBUG,
    LogLevel.INFO: logging.INFO,
    LogLevel.WARNING: logging.WARNING,
    LogLevel.ERROR: logging.ERROR,
}
CHATTY_LIBRARIES = ("alembic", "asyncio", "uvicorn", "httpx", "httpcore")
"""They say at `info` and below what is of no use to an operator."""


def configure_logs(config: OrchestratorConfig, stream: TextIO | None = None) -> None:
    """Set the process's log up. May be called again: the last call holds.

    Args:
        config: `log_format` and `log_level` are used.
        stream: Where to write; standard error by default.
    """
    level = LEVELS[config.log_level]
    output: TextIO = stream or sys.stderr
    shared: Sequence[structlog.typing.Processor] = (
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        # A cached logger would keep the settings of an earlier call.
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(output)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(config.log_format, colors=_shows_colours(output)),
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=level, force=True)
    logging.captureWarnings(capture=True)
    for library in CHATTY_LIBRARIES:
        logging.getLogger(library).setLevel(max(level, logging.WARNING))


def _shows_colours(output: TextIO) -> bool:
    """Only on a terminal that can, for people who want them (https://no-color.org)."""
    return output.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def get_logger(**bound: Any) -> structlog.typing.FilteringBoundLogger:  # noqa: ANN401 - context is open
    """A logger that carries `bound` with every event."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(**bound)
    return logger


def _renderers(log_format: LogFormat, *, colors: bool) -> list[structlog.typing.Processor]:
    if log_format is LogFormat.JSON:
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    return [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)]
