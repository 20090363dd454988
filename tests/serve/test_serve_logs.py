"""Logs as lines of JSON: each record is one object, whatever it holds."""

from __future__ import annotations

import io
import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recfx.errors import InputError
from recfx.serve.logs import JsonLines, configure


def record(message, *arguments, **more):
    made = logging.LogRecord("recfx.serve", logging.WARNING, "file.py", 1, message, arguments, None)
    vars(made).update(more)
    return made


@given(st.text(st.characters(codec="utf-8")))
def test_each_record_is_one_line_with_its_message(text):
    line = JsonLines().format(record("%s", text))
    assert "\n" not in line
    found = json.loads(line)
    assert found["message"] == text
    assert (found["level"], found["logger"]) == ("warning", "recfx.serve")


def test_fields_and_tracebacks_are_kept():
    try:
        raise ValueError("wrong")
    except ValueError as error:
        held = record("failed", model="deepfm", rows=3, odd={1}, exc_info=(type(error), error, error.__traceback__))
    held.created, held.msecs = 0.5, 500.0
    found = json.loads(JsonLines().format(held))
    assert found["time"] == "1970-01-01T00:00:00.500Z"
    assert (found["model"], found["rows"], found["odd"]) == ("deepfm", 3, "{1}")
    assert found["error"].endswith("ValueError: wrong")


@pytest.fixture
def loggers():
    held = [logging.getLogger(name) for name in ("recfx.serve", "uvicorn.error")]
    before = [(logger.handlers, logger.propagate, logger.level) for logger in held]
    yield held
    for logger, (handlers, propagate, level) in zip(held, before, strict=True):
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_log_of_the_server_goes_to_standard_error(loggers, monkeypatch, form):
    written = io.StringIO()
    monkeypatch.setattr("sys.stderr", written)
    configure(form)
    loggers[0].info("model %s: version %d", "a", 2)
    loggers[1].info("left out")
    (line,) = written.getvalue().splitlines()
    assert (
        line.endswith("INFO recfx.serve: model a: version 2") if form == "text" else json.loads(line)["level"] == "info"
    )


def test_an_unknown_form_is_refused():
    with pytest.raises(InputError, match="no form of logs 'xml'"):
        configure("xml")
