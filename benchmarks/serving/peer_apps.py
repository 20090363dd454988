"""Web applications that users write around a model, for uvicorn: `uvicorn --factory benchmarks.serving.peer_apps:eager`.

They answer the same binary requests as recfx serve, so that the load generator drives all of them; decoding and encoding are shared. The
environment variable RECFX_BENCH_MODEL names the model, RECFX_BENCH_FOLDER the saved compiled model.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool

from benchmarks.serving.models import make
from recfx.compiled import load
from recfx.serve.engine.tensor_info import TensorInfo
from recfx.serve.http.messages import read_request, write_answer

_OUTPUT = (TensorInfo("output", torch.float32, (-1,)),)


def _application(call: Callable[..., torch.Tensor]) -> FastAPI:
    """A plain application: each request runs the model in a thread of the pool."""
    app = FastAPI()

    def run(body: bytes, length: int | None) -> tuple[list[bytes], int | None]:
        request = read_request(bytearray(body), length)
        with torch.inference_mode():
            output = call(*request.tensors.values())
        return write_answer("model", "1", request, _OUTPUT, [output])

    async def infer(request: Request) -> Response:
        header = request.headers.get("inference-header-content-length")
        parts, length = await run_in_threadpool(run, await request.body(), int(header) if header else None)
        more = {} if length is None else {"inference-header-content-length": str(length)}
        return Response(b"".join(parts), media_type="application/octet-stream", headers=more)

    app.add_api_route("/v2/models/model/infer", infer, methods=["POST"])
    return app


def eager() -> FastAPI:
    """The user's model in PyTorch."""
    torch.set_num_threads(1)
    return _application(make(os.environ["RECFX_BENCH_MODEL"]))


def compiled() -> FastAPI:
    """The compiled model."""
    torch.set_num_threads(1)
    return _application(load(os.environ["RECFX_BENCH_FOLDER"], check=False))


def echo() -> Any:
    """A bare ASGI application that returns a constant answer."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        while (await receive()).get("more_body", False):
            pass
        headers = [(b"content-type", b"application/json"), (b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"{}"})

    return app
