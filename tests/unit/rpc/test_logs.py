"""Log lines of structlog and of the standard library have one form."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from meshcast.rpc import LogSettings, setup_logs


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Where the lines go; afterwards logging is as it was."""
    root = logging.getLogger()
    handlers, level, config = root.handlers[:], root.level, structlog.get_config()
    yield io.StringIO()
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.configure(**config)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_one_json_object_with_its_facts(stream: io.StringIO) -> None:
    setup_logs(LogSettings(format="json"), service="predictor", stream=stream)
    structlog.get_logger().info("model swapped", version=3)
    (line,) = lines(stream)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "model swapped", "version": 3, "level": "info", "service": "predictor"}


def test_the_standard_librarys_lines_have_the_same_form(stream: io.StringIO) -> None:
    setup_logs(LogSettings(format="json"), service="predictor", stream=stream)
    logging.getLogger("somebody").warning("lost %d", 3)
    (line,) = lines(stream)
    assert (line["event"], line["level"], line["service"]) == ("lost 3", "warning", "predictor")


def test_lines_below_the_level_are_not_written(stream: io.StringIO) -> None:
    setup_logs(LogSettings(level="warning", format="json"), stream=stream)
    structlog.get_logger().info("quiet")
    logging.getLogger("somebody").info("quiet")
    assert stream.getvalue() == ""


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_shows_no_local_variables(stream: io.StringIO, form: Any) -> None:
    setup_logs(LogSettings(format=form), stream=stream)
    secret = "row of a caller"
    try:
        raise ValueError("bug")
    except ValueError:
        structlog.get_logger().exception("failed")
    assert "ValueError: bug" in stream.getvalue()
    assert secret not in stream.getvalue().replace('secret = "row of a caller"', "")


def test_what_is_no_terminal_gets_json(stream: io.StringIO) -> None:
    setup_logs(LogSettings(), stream=stream)
    structlog.get_logger().info("hello")
    assert lines(stream)[0]["event"] == "hello"
