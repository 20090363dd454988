"""A caller may write to the results of a compiled model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pass_cases import Function
from torch import nn

import recfx

BODIES: dict[str, Callable[..., Any]] = {
    "folded state": lambda m, x: (x + 1, m.w @ m.w),
    "a view of folded state": lambda m, x: (x + 1, (m.w @ m.w)[0]),
    "the input": lambda m, x: (x.clone(), x * 1),
    "the same twice": lambda m, x: (x + 1, x + 1),
    "state as it is": lambda m, x: (x + 1, m.w * 1),
}


@pytest.mark.parametrize("name", BODIES)
def test_writing_to_outputs_changes_nothing_else(name: str) -> None:
    model = Function(BODIES[name], w=nn.Parameter(torch.randn(4, 4)))
    fast = recfx.optimize(model, example_inputs=(torch.randn(3, 4),), measure=False)
    x = torch.randn(5, 4)
    kept, weight = x.clone(), model.w.detach().clone()
    with torch.no_grad():
        want = [out.clone() for out in model(x)]
    outputs = fast(x)
    for i, out in enumerate(outputs):
        out.mul_(-7)
        for other in outputs[i + 1 :]:
            assert other.data_ptr() != out.data_ptr()
    assert torch.equal(x, kept)
    assert torch.equal(model.w, weight)
    assert all(torch.equal(a, b) for a, b in zip(fast(x), want, strict=True))


def test_ordinary_outputs_are_not_copied() -> None:
    model = Function(lambda m, x: (x + 1, (x * 2)[:, :2]), w=nn.Parameter(torch.randn(4, 4)))
    fast = recfx.optimize(model, example_inputs=(torch.randn(3, 4),), measure=False)
    assert not any("clone" in str(node.target) for node in fast.program.graph.nodes)
