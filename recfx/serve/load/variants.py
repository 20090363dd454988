"""`WatchedVariant`: which variant of a model a server uses, asked several times a second while a load runs."""

from __future__ import annotations

import http.client
import json
import threading
import time
from types import TracebackType
from typing import Self

_INTERVAL = 0.1  # seconds
_PATIENCE = 2.0  # seconds


class WatchedVariant:
    """A context in which a thread asks a server for its active variant, as `recfx serve` shows it at /status.

    Other servers of the protocol have no such page: then `seen` stays empty.

    Args:
        host: The server.
        port: Its port.
        model: The name of the model.
        token: Bearer token, if the server wants one.

    Attributes:
        seen: The clock (`time.monotonic`) and the variant of each answer.
    """

    def __init__(self, host: str, port: int, model: str, token: str | None = None) -> None:
        self.seen: list[tuple[float, str]] = []
        self._place, self._model = (host, port), model
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="recfx-watch-variant", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        connection = http.client.HTTPConnection(*self._place, timeout=_PATIENCE)
        try:
            while True:
                try:
                    connection.request("GET", "/status", headers=self._headers)
                    answer = connection.getresponse()
                    body = answer.read()
                    known = answer.status != 404
                except (OSError, http.client.HTTPException):  # a server under load may not answer in time
                    connection.close()
                    known, body = True, b""
                if not known:
                    return
                if (variant := _variant(body, self._model)) is not None:
                    self.seen.append((time.monotonic(), variant))
                if self._ended.wait(_INTERVAL):
                    return
        finally:
            connection.close()


def _variant(body: bytes, model: str) -> str | None:
    """The variant of a model in the document at /status; None if it is not there."""
    try:
        models = json.loads(body)["models"]
        found = next(each["variant"] for each in models if each["name"] == model)
    except (ValueError, KeyError, TypeError, StopIteration):
        return None
    return str(found)
