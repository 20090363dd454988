"""`App`: the Open Inference Protocol (v2) over HTTP, with metrics, a live page, and limits on everything that a client sends.

Paths: /v2, /v2/health/live, /v2/health/ready, /v2/models/NAME[/versions/V][/ready|/infer|/tables], /v2/repository/index,
/v2/repository/models/NAME/load (loads the model's own folder again), /metrics, /status, /openapi.json
and /.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any

import orjson

from recfx.errors import RecfxError
from recfx.serve.bridge import Bridge
from recfx.serve.calls import infer
from recfx.serve.engine.engine import Engine
from recfx.serve.engine.trace import Trace
from recfx.serve.http.bodies import Receive, length_of, read_body
from recfx.serve.http.messages import JSON_LENGTH, read_request, write_answer
from recfx.serve.http.metrics import exposition
from recfx.serve.http.openapi import openapi_document
from recfx.serve.http.page import PAGE
from recfx.serve.models import Models
from recfx.serve.outcomes import Reason, Rejected
from recfx.serve.protocol.documents import index_document, model_document, server_document, status_document
from recfx.serve.protocol.limits import HttpSettings
from recfx.serve.protocol.tensors import chosen_outputs, timeout_of
from recfx.serve.siblings import Siblings
from recfx.serve.tracing import Tracing
from recfx.serve.updates import tables_document

_log = logging.getLogger("recfx.serve")

Scope = MutableMapping[str, Any]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]

#: The HTTP status of each reason.
STATUS = {
    Reason.INVALID: 400,
    Reason.FORBIDDEN: 401,
    Reason.UNKNOWN: 404,
    Reason.TOO_LARGE: 413,
    Reason.OVERLOADED: 429,
    Reason.CANCELLED: 499,
    Reason.FAILED: 500,
    Reason.CLOSING: 503,
    Reason.TOO_LATE: 504,
    Reason.GIVEN_UP: 504,
}
_JSON = b"application/json"
#: Paths that need no token: probes of a load balancer have none.
_OPEN = ("/v2/health/live", "/v2/health/ready")


class _Answer:
    """A complete answer.

    Attributes:
        body: Its parts.
    """

    __slots__ = ("body", "headers", "status")

    def __init__(
        self, status: int, body: Iterable[bytes], kind: bytes = _JSON, more: Iterable[tuple[bytes, bytes]] = ()
    ) -> None:
        self.status = status
        self.body = b"".join(body)
        self.headers = [(b"content-type", kind), (b"content-length", b"%d" % len(self.body)), *more]


def _document(status: int, document: Any) -> _Answer:
    return _Answer(status, [orjson.dumps(document)])


class App:
    """The Open Inference Protocol over HTTP, as an ASGI application.

    Args:
        models: The served models.
        settings: Limits and tokens.
        siblings: The processes that share its port, whose metrics it shows as well; None if it is alone.
        tracing: Makes spans of inference requests; None for none.
    """

    def __init__(
        self,
        models: Models,
        settings: HttpSettings | None = None,
        siblings: Siblings | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self.models = models
        self.settings = settings or HttpSettings()
        self._siblings = siblings
        self._tracing = tracing
        self._bridge: Bridge | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1003})
            return
        try:
            answer = await self._answer(scope, receive)
        except Rejected as error:
            if error.reason is Reason.CANCELLED:
                return
            answer = self._refused(error)
        except RecfxError as error:
            answer = _document(400, {"error": str(error)})
        except Exception as error:  # noqa: BLE001 - a fault of the server is an answer, and the log has the traceback
            _log.exception("an unexpected error at %s", scope["path"])
            answer = _document(
                500, {"error": f"unexpected error: {type(error).__name__}; the server's log has the traceback"}
            )
        head = scope["method"] == "HEAD"
        await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
        await send({"type": "http.response.body", "body": b"" if head else answer.body})

    def _refused(self, error: Rejected) -> _Answer:
        more = [(b"www-authenticate", b"Bearer")] if error.reason is Reason.FORBIDDEN else []
        if error.reason in (Reason.OVERLOADED, Reason.CLOSING):
            more.append((b"retry-after", b"1"))
        return _Answer(STATUS[error.reason], [orjson.dumps({"error": str(error)})], more=more)

    async def _answer(self, scope: Scope, receive: Receive) -> _Answer:
        path, method = scope["path"], scope["method"]
        headers = dict(scope["headers"])
        tenant = ""
        if self.settings.tokens and path not in _OPEN:
            found = self.settings.tenant(headers.get(b"authorization"))
            if found is None:
                raise Rejected(
                    Reason.FORBIDDEN,
                    "the bearer token is missing or unknown",
                    where="header Authorization",
                    hint="send Authorization: Bearer TOKEN",
                )
            tenant = found
        parts = path.strip("/").split("/")
        if parts[:2] == ["v2", "models"] and len(parts) > 2:
            return await self._model(parts[2:], method, headers, receive, tenant)
        if parts[:2] == ["v2", "repository"]:
            return await self._repository(parts[2:], method)
        _require(method, ("GET", "HEAD"), path)
        if parts == ["metrics"]:
            others = [] if self._siblings is None else await self._siblings.others()
            body, kind = exposition(self.models, others)
            return _Answer(200, [body], kind)
        return self._page(path, parts)

    def _page(self, path: str, parts: list[str]) -> _Answer:
        """The answers that do not depend on a body."""
        ready = all(engine.healthy for engine in self.models)
        if path == "/":
            return _Answer(200, [PAGE], b"text/html; charset=utf-8")
        if parts == ["v2"]:
            return _document(200, server_document())
        if parts == ["v2", "health", "live"]:
            return _document(200, {"live": True})
        if parts == ["v2", "health", "ready"]:
            return _document(200 if ready else 503, {"ready": ready})
        if parts == ["openapi.json"]:
            return _document(200, openapi_document())
        if parts == ["status"]:
            return _document(200, status_document(self.models))
        raise Rejected(Reason.UNKNOWN, f"no page {path!r:.200}", hint="see /v2 and /metrics")

    async def _repository(self, parts: list[str], method: str) -> _Answer:
        if parts == ["index"]:
            _require(method, ("POST", "GET"), "/v2/repository/index")
            return _document(200, index_document(self.models))
        if len(parts) == 3 and parts[0] == "models" and parts[2] == "load":
            _require(method, ("POST",), "/v2/repository/models/NAME/load")
            await asyncio.to_thread(self.models.reload, parts[1])
            return _document(200, {})
        raise Rejected(Reason.UNKNOWN, "no such path under /v2/repository", hint="use index, or models/NAME/load")

    async def _model(
        self, parts: list[str], method: str, headers: dict[bytes, bytes], receive: Receive, tenant: str
    ) -> _Answer:
        name, version, rest = parts[0], None, parts[1:]
        if rest[:1] == ["versions"] and len(rest) > 1:
            version, rest = rest[1], rest[2:]
        engine = self.models.get(name, version)
        if rest == ["infer"]:
            _require(method, ("POST",), "infer")
            if self._tracing is None:
                return await self._infer(engine, headers, receive, tenant)
            given = {key.decode("latin-1"): value.decode("latin-1") for key, value in headers.items()}
            with self._tracing.request("POST /v2/models/{name}/infer", engine.name, given) as span:
                return await self._infer(engine, headers, receive, tenant, span)
        if rest == ["tables"] and method == "POST":
            return await self._update(engine, headers, receive, tenant)
        _require(method, ("GET", "HEAD"), f"/v2/models/{name}")
        if rest == ["ready"]:
            return _document(200 if engine.healthy else 503, {"name": name, "ready": engine.healthy})
        if rest == ["tables"]:
            return _document(200, await asyncio.to_thread(tables_document, engine))
        if not rest:
            return _document(200, model_document(engine))
        raise Rejected(Reason.UNKNOWN, f"no such path of model {name}", hint="use infer, ready, tables, or nothing")

    async def _update(self, engine: Engine, headers: dict[bytes, bytes], receive: Receive, tenant: str) -> _Answer:
        self.models.updates.require_allowed(tenant)
        body = await read_body(headers, receive, self.settings)
        request = read_request(body, length_of(headers.get(JSON_LENGTH), "Inference-Header-Content-Length"))
        return _document(200, await asyncio.to_thread(self.models.updates.apply, engine, request.tensors, tenant))

    async def _infer(
        self, engine: Engine, headers: dict[bytes, bytes], receive: Receive, tenant: str, trace: Trace | None = None
    ) -> _Answer:
        body = await read_body(headers, receive, self.settings)
        request = read_request(body, length_of(headers.get(JSON_LENGTH), "Inference-Header-Content-Length"))
        infos = engine.variant.interface.outputs
        chosen_outputs(request.outputs, [info.name for info in infos], request.binary)
        outputs = await infer(
            engine,
            self._bridge_of_loop(),
            request.tensors,
            timeout=timeout_of(request.parameters),
            tenant=tenant,
            trace=trace,
            leaving=lambda: _disconnected(receive),
        )
        parts, length = write_answer(engine.name, str(engine.version), request, infos, outputs)
        if length is None:
            return _Answer(200, parts)
        return _Answer(200, parts, b"application/octet-stream", [(JSON_LENGTH, b"%d" % length)])

    def _bridge_of_loop(self) -> Bridge:
        if self._bridge is None:
            self._bridge = Bridge(asyncio.get_running_loop())
        return self._bridge


def _require(method: str, allowed: tuple[str, ...], path: str) -> None:
    if method not in allowed:
        raise Rejected(Reason.INVALID, f"{method} is not a method of {path}", hint=f"use {allowed[0]}")


async def _disconnected(receive: Receive) -> None:
    """Ends when the client closes its connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
