from __future__ import annotations

import io
import json
import logging
import warnings
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
import structlog

from callboard.bus.logs import default_to_standard_error
from callboard.orchestrator.config import LogFormat, LogLevel, OrchestratorConfig
from callboard.orchestrator.logs import configure_logs, get_logger

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _configured(log_format: LogFormat, stream: io.StringIO, level: LogLevel = LogLevel.INFO) -> None:
    configure_logs(OrchestratorConfig(log_format=log_format, log_level=level), stream)


def test_json_carries_what_was_bound() -> None:
    stream = io.StringIO()
    _configured(LogFormat.JSON, stream)
    get_logger(pool="default", agent_id="a-1").info("offer sent", task_id="t", attempt=2)
    event = json.loads(stream.getvalue())
    at = datetime.fromisoformat(event.pop("timestamp"))
    assert at.tzinfo == UTC
    assert event == {
        "event": "offer sent", "level": "info", "pool": "default", "agent_id": "a-1", "task_id": "t", "attempt": 2,
    }  # fmt: skip


def test_libraries_come_out_in_the_same_form() -> None:
    stream = io.StringIO()
    _configured(LogFormat.JSON, stream)
    logging.getLogger("another.module").warning("so %s", "what")
    event = json.loads(stream.getvalue())
    assert (event["event"], event["level"], event["logger"]) == ("so what", "warning", "another.module")


def test_warnings_go_to_the_log() -> None:
    stream = io.StringIO()
    _configured(LogFormat.JSON, stream)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=False)
        logging.captureWarnings(capture=True)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        logging.captureWarnings(capture=False)
    assert json.loads(stream.getvalue())["logger"] == "py.warnings"


@pytest.mark.parametrize(
    ("level", "expected"), [(LogLevel.DEBUG, 4), (LogLevel.INFO, 3), (LogLevel.WARNING, 2), (LogLevel.ERROR, 1)]
)
def test_the_level_holds(level: LogLevel, expected: int) -> None:
    stream = io.StringIO()
    _configured(LogFormat.JSON, stream, level)
    log = get_logger()
    log.debug("1")
    log.info("2")
    log.warning("3")
    log.error("4")
    assert len(stream.getvalue().splitlines()) == expected


def test_a_logger_made_before_follows_the_last_call() -> None:
    log = get_logger(pool="p")
    first, second = io.StringIO(), io.StringIO()
    _configured(LogFormat.JSON, first)
    log.info("one")
    _configured(LogFormat.CONSOLE, second)
    log.info("two")
    assert "two" not in first.getvalue()
    assert "two" in second.getvalue()


def test_colours_are_for_terminals() -> None:
    plain, terminal = io.StringIO(), _Terminal()
    for stream in (plain, terminal):
        _configured(LogFormat.CONSOLE, stream)
        get_logger().info("hello", pool="p")
    assert "\x1b[" not in plain.getvalue()
    assert "\x1b[" in terminal.getvalue()


@pytest.mark.parametrize("log_format", LogFormat)
def test_a_traceback_shows_no_local_variables(log_format: LogFormat) -> None:
    stream = io.StringIO()
    _configured(log_format, stream)

    def fail(password: str) -> None:
        raise ValueError(f"a password of {len(password)} letters")

    try:
        fail("hunter" + str(2))
    except ValueError:
        get_logger().exception("it failed")
    assert "ValueError: a password of 7 letters" in stream.getvalue()
    assert "hunter2" not in stream.getvalue()


def test_tracebacks_show_no_content_also_when_nobody_has_set_the_log_up(capsys: pytest.CaptureFixture[str]) -> None:
    structlog.reset_defaults()
    default_to_standard_error()

    def fail(password: str) -> None:
        raise ValueError(f"a password of {len(password)} letters")

    try:
        fail("hunter" + str(2))
    except ValueError:
        structlog.get_logger("someone").exception("it failed")
    told = capsys.readouterr().err
    assert "ValueError: a password of 7 letters" in told
    assert "hunter2" not in told
