"""Logs of a process: structlog lines, JSON for machines and a console form for people, set up once in main."""

from __future__ import annotations

import json
import logging
import logging.config
import sys
from collections.abc import Sequence
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from .call import current_call
from .settings import LogSettings


def setup_logs(
    settings: LogSettings, *, service: str = "", processors: Sequence[Processor] = (), stream: TextIO | None = None
) -> None:
    """Sends every log line of the process, the standard library's too, through one form to one stream.

    Call it once, before servers and channels are made: grpc may deadlock when logging changes under it.

    Args:
        settings: of the table `[logs]`.
        service: name of the process, a fact of every line; empty for none.
        processors: add facts to every line, such as tracing's ids.
        stream: where lines go; None is stderr.
    """
    out = stream or sys.stderr
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    is_console = settings.format == "console" or (settings.format == "auto" and out.isatty())

    def add_service(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
        event.setdefault("service", service)
        return event

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        add_call,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        *([add_service] if service else []),
        *processors,
    ]
    renderer: list[Processor]
    if is_console:
        # Plain tracebacks: the rich ones print local variables, which are callers' data.
        plain = structlog.dev.plain_traceback
        renderer = [structlog.dev.ConsoleRenderer(colors=out.isatty(), exception_formatter=plain)]
    else:
        renderer = [structlog.processors.format_exc_info, _to_json]
    structlog.configure(
        processors=[*shared, *renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(out),
        cache_logger_on_first_use=True,
    )
    formatter = {
        "()": structlog.stdlib.ProcessorFormatter,
        "foreign_pre_chain": shared,
        "processors": [structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
    }
    handler = {"class": "logging.StreamHandler", "stream": out, "formatter": "mesh"}
    config: dict[str, Any] = {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"mesh": formatter},
        "handlers": {"mesh": handler},
        "root": {"level": level, "handlers": ["mesh"]},
    }
    logging.config.dictConfig(config)


_encode = json.JSONEncoder(default=str, ensure_ascii=False, separators=(",", ":")).encode


def _to_json(logger: WrappedLogger, name: str, event: EventDict) -> str:
    # structlog's own renderer makes an encoder for each line.
    return _encode(event)


def add_call(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
    """Adds method and request id of the running call to a line that has none; a structlog processor."""
    call = current_call()
    if call is not None:
        event.setdefault("method", call.method)
        event.setdefault("request_id", call.request_id)
    return event
