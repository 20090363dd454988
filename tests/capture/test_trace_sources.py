"""The source lines of a quick trace are those that torch finds for every node on its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recfx.capture.quick_trace import quick_trace

X = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))


class Inner(nn.Module):
    """A layer whose forward has several lines that compute."""

    def __init__(self, depth: int = 0) -> None:
        super().__init__()
        self.deeper = Inner(depth - 1) if depth else None

    def forward(self, x: Tensor) -> Tensor:
        """Two operators, and those of the layer inside."""
        x = x.relu()
        if self.deeper is not None:
            x = self.deeper(x)
        return x + 1


class Outer(nn.Module):
    """A model of a function, with nested layers and a layer that runs as a generator."""

    def __init__(self, body: Callable[[Outer, Tensor], Any]) -> None:
        super().__init__()
        self.body, self.inner, self.steps = body, Inner(2), Steps()

    def forward(self, x: Tensor) -> Any:
        """Whatever the body computes."""
        x = x * 2
        return self.body(self, x)


class Steps(nn.Module):
    """A layer whose forward is a generator."""

    def forward(self, x: Tensor) -> Iterator[Tensor]:
        """Three values, each made when the caller asks for it."""
        for _ in range(2):
            x = x.sigmoid()
            yield x
        yield x.tanh()


class Ahead(nn.Module):
    """A layer that takes one more step of a generator."""

    def forward(self, steps: Iterator[Tensor]) -> Tensor:
        """The next value."""
        return next(steps)


def _loop(self: Outer, x: Tensor) -> Any:
    for _ in range(3):
        x = self.inner(x)
        x = x.exp()
    return x


def _one_line(self: Outer, x: Tensor) -> Any:
    return self.inner(x) + self.inner(x).neg() * self.inner(self.inner(x))


def _generator(self: Outer, x: Tensor) -> Any:
    steps = self.steps(x)
    first = next(steps)
    x = first + Ahead()(steps)
    return x, next(steps), list(self.steps(x))


def _helpers(self: Outer, x: Tensor) -> Any:
    def twice(y: Tensor) -> Tensor:
        return self.inner(y) * self.inner(y)

    return [twice(part) for part in (x, x.abs())], twice(x)


def _caught(self: Outer, x: Tensor) -> Any:
    try:
        self.inner(x[:, :3] @ x)
    except Exception:  # noqa: BLE001 - whatever error torch has for the sizes
        x = self.inner(x)
    return x.square()


def _lines(model: nn.Module) -> list[tuple[str, str | None]]:
    module = torch.export.export(model, (X,)).module(check_guards=False)
    return [(node.name, node.stack_trace) for node in module.graph.nodes]


@pytest.mark.parametrize(
    "body", [_loop, _one_line, _generator, _helpers, _caught], ids=lambda body: body.__name__.strip("_")
)
def test_the_lines_are_those_of_torch(body: Callable[..., Any]) -> None:
    model = Outer(body).eval()
    expected = _lines(model)
    with quick_trace() as trace:
        found = _lines(model)
    assert found == expected
    assert any(text is not None and "Inner" not in text and "forward" in text for _, text in found)
    assert trace.sources.formatted < sum(text is not None for _, text in found)


def test_frames_of_the_model_are_released() -> None:
    class Held(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.relu().neg()

    with quick_trace() as trace:
        _lines(Held())
        assert trace.sources._callers
    assert not trace.sources._callers
    assert not trace.sources._stack
