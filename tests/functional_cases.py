"""Helpers of the functionalization tests: bodies of models that write in place, and the check that their graphs give
the same bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from recfx.capture import capture
from recfx.capture.batch_limits import LIMITS
from recfx.ir import verify_meta
from recfx.ir.functional_ops import is_inplace

Body = Callable[[torch.Tensor], Any]


class Fn(nn.Module):
    """A function of one float32 [B, 6] tensor as a model."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        self.body = body
        self.eval()

    def forward(self, x: torch.Tensor) -> Any:
        return self.body(x)


def floats(batch: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, 6, generator=torch.Generator().manual_seed(seed))


def check(body: Body, batches: tuple[int, ...] = (1, 2, 5)) -> None:
    model = Fn(body)
    program = capture(model, (floats(4),))
    assert not [n for n in program.graph.nodes if is_inplace(n)]
    verify_meta(program)
    low = program.signature.dims["batch"][0]
    if low > 2:
        assert any(f"{LIMITS} {low} to" in notice for notice in program.notices)
    for batch in (batch for batch in batches if low <= 2 or batch >= low):
        x = floats(batch, seed=batch)
        expected = model(x.clone())
        actual = program(x)
        flat = torch.utils._pytree.tree_leaves
        for want, got in zip(flat(expected), flat(actual), strict=True):
            assert got.dtype is want.dtype
            assert torch.equal(got, want)


def collect(cases: dict[str, Body]) -> Callable[[Body], Body]:
    """A decorator that adds bodies to a table under their names."""

    def case(body: Body) -> Body:
        cases[body.__name__] = body
        return body

    return case
