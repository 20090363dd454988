"""One request of an event loop: submitted, awaited, and cancelled when its client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import torch

from recfx.serve.bridge import Bridge
from recfx.serve.engine.engine import Engine
from recfx.serve.engine.trace import Trace
from recfx.serve.outcomes import Reason, Rejected

#: Most calls end within this time, and only later it is worth the cost to watch the connection.
_WATCH_AFTER = 0.02


async def infer(
    engine: Engine,
    bridge: Bridge,
    tensors: Mapping[str, torch.Tensor],
    *,
    timeout: float | None = None,
    tenant: str = "",
    trace: Trace | None = None,
    leaving: Callable[[], Coroutine[Any, Any, None]] | None = None,
) -> list[torch.Tensor]:
    """The outputs of a request.

    Args:
        engine: The model.
        bridge: That of the running event loop.
        tensors: Name -> tensor.
        timeout: See `Engine.submit`.
        tenant: Likewise.
        trace: Likewise.
        leaving: Makes a coroutine that ends when the client leaves.

    Raises:
        Rejected: The request is not answered.
    """
    future, finish = bridge.future()
    request = engine.submit(tensors, finish, timeout=timeout, tenant=tenant, here=True, trace=trace)
    try:
        if future.done():
            outcome = future.result()
        elif leaving is None:
            outcome = await future
        else:
            done, _ = await asyncio.wait((future,), timeout=_WATCH_AFTER)
            if not done:
                watch = asyncio.ensure_future(leaving())
                try:
                    await asyncio.wait((future, watch), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    watch.cancel()
                if not future.done():
                    raise Rejected(Reason.CANCELLED, "the client closed its connection")
            outcome = future.result()
    finally:
        if not future.done():
            engine.cancel(request)
    if isinstance(outcome, Rejected):
        raise outcome
    return outcome
