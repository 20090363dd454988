"""The live page: load, times, batches and the active variant of each model, drawn in the browser from /status once a second."""

from __future__ import annotations

from importlib.resources import files

PAGE = files("recfx.serve.http").joinpath("page.html").read_bytes()
