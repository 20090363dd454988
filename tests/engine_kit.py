"""Compiled models, engines and a client for the tests of serving."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Iterator
from typing import Any

import torch
from models import TinyCtr, tiny_inputs

import recfx
from recfx.compiled import CompiledModel
from recfx.serve.engine.engine import Engine
from recfx.serve.engine.interface import ModelInterface
from recfx.serve.engine.settings import EngineSettings
from recfx.serve.engine.variants import Variant
from recfx.serve.outcomes import Rejected
from recfx.serve.policies.times import ServiceTimes

#: Times of a call that no test waits for.
TIMES = ServiceTimes({1: 1e-5, 1024: 1.1e-5})


@functools.cache
def user_model(seed: int = 0) -> TinyCtr:
    """`TinyCtr`; it is made once, because its weights are drawn from torch's global generator."""
    return TinyCtr(seed)


@functools.cache
def compiled(seed: int = 0) -> CompiledModel:
    """`TinyCtr`, compiled."""
    return recfx.optimize(user_model(seed), target="native", example_inputs=tiny_inputs(4), measure=False)


def tensors(rows: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """A request for `TinyCtr`."""
    return dict(zip(("dense", "sparse"), tiny_inputs(rows, seed), strict=True))


def expected(request: dict[str, torch.Tensor], seed: int = 0) -> torch.Tensor:
    """The user's model on a request."""
    with torch.no_grad():
        return user_model(seed)(request["dense"], request["sparse"])


class Slow:
    """A compiled model of which each call waits for a signal, raises, or ends its thread.

    Attributes:
        entered: Released when a call begins.
        go: Each call waits for it.
        errors: Errors that the next calls raise, in order.
    """

    def __init__(self, model: CompiledModel) -> None:
        self.model, self.parts = model, model.parts
        self.entered, self.go = threading.Semaphore(0), threading.Event()
        self.errors: list[BaseException] = []
        self.rows: list[int] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.entered.release()
        self.rows.append(len(args[0]))
        assert self.go.wait(30)
        if self.errors:
            raise self.errors.pop(0)
        return self.model(*args, **kwargs)

    def pinned(self) -> Slow:
        """Itself: its tables take no rows."""
        return self


def variant(model: Any = None, name: str = "fp32", times: ServiceTimes = TIMES, quality: float = 0.0) -> Variant:
    """A variant whose times are not measured. A model that stands before a compiled one may wait, so only workers call it."""
    interface = ModelInterface(model or compiled())
    interface.runs_on_own_kernels &= isinstance(interface.model, CompiledModel)
    return Variant(name, interface, times, quality)


@contextlib.contextmanager
def engine(*variants: Variant, settings: EngineSettings | None = None, **options: Any) -> Iterator[Engine]:
    """An engine that ends with the test."""
    made = Engine("tiny", variants or (variant(),), settings or EngineSettings(workers=2), **options)
    try:
        yield made
    finally:
        made.close(5.0)


class Outcomes:
    """Collects outcomes that worker threads report."""

    def __init__(self) -> None:
        self.found: dict[Any, Any] = {}
        self._arrived = threading.Semaphore(0)

    def of(self, key: Any) -> Any:
        """The function that takes the outcome of a request."""

        def finish(outcome: Any) -> None:
            assert key not in self.found, "an outcome is reported once"
            self.found[key] = outcome
            self._arrived.release()

        return finish

    def wait(self, count: int) -> dict[Any, Any]:
        """All outcomes, when so many have arrived."""
        for _ in range(count):
            assert self._arrived.acquire(timeout=30), f"{len(self.found)} of {count} outcomes arrived"
        return self.found


def settled(condition: Any) -> None:
    """Waits until a condition holds that another thread makes true."""
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.005)
    raise AssertionError("the condition did not come true in 15 s")


def outcome(function: Any, *arguments: Any) -> Any:
    """The result of a function, or its refusal."""
    try:
        return function(*arguments)
    except Rejected as error:
        return error
