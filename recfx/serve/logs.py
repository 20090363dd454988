"""The log of a server: lines of text, or of JSON for programs that collect logs."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

import orjson

from recfx.errors import InputError

FORMS = ("text", "json")

#: What every record of Python's logging has; other attributes were given with `extra=`.
_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


class JsonLines(logging.Formatter):
    """Formats each record as an object of JSON in one line: time (UTC), level, logger, message, fields of `extra=`, and the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record, without its end."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
        }
        line |= {name: value for name, value in vars(record).items() if name not in _USUAL}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


def configure(form: str) -> None:
    """Sends the log of recfx and of its HTTP server to standard error.

    Args:
        form: "text" or "json".

    Raises:
        InputError: The form is unknown.
    """
    if form not in FORMS:
        raise InputError(f"no form of logs {form!r}", hint=f"pass {' or '.join(FORMS)}")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonLines() if form == "json" else logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    )
    for name, level in (("recfx.serve", logging.INFO), ("uvicorn.error", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
