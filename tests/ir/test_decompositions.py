"""Operators of other libraries are rewritten at capture, found by their name."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import recfx
from recfx.ir import capture
from recfx.ir.decompositions import DECOMPOSITIONS, Rewriter

_aten = torch.ops.aten


@pytest.fixture(scope="module", autouse=True)
def library() -> Iterator[None]:
    """A library `recfx_test` with operators that no backend knows."""
    own = torch.library.Library("recfx_test", "DEF")
    own.define("shifted(Tensor x, Tensor by, int times=1) -> Tensor")
    own.define("halves(Tensor x, int at) -> Tensor[]")
    own.impl("shifted", lambda x, by, times=1: x + by * times, "CompositeExplicitAutograd")
    own.impl("halves", lambda x, at: [x[:, :at].clone(), x[:, at:].clone()], "CompositeExplicitAutograd")
    yield
    own._destroy()


@pytest.fixture
def rules(monkeypatch: pytest.MonkeyPatch) -> None:
    def shifted(rewriter: Rewriter) -> torch.fx.Node:
        given = rewriter.arguments
        by = rewriter.value(given["by"]) * given["times"]
        return rewriter.call(_aten.add.Tensor, given["x"], rewriter.constant("shift", by))

    def halves(rewriter: Rewriter) -> list[torch.fx.Node]:
        given = rewriter.arguments
        x, at = given["x"], given["at"]
        return [rewriter.call(_aten.slice.Tensor, x, 1, a, b) for a, b in ((0, at), (at, 2**63 - 1))]

    monkeypatch.setitem(DECOMPOSITIONS, "recfx_test::shifted", shifted)
    monkeypatch.setitem(DECOMPOSITIONS, "recfx_test::halves", halves)


class Foreign(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("by", torch.arange(4.0))

    def forward(self, x: Tensor) -> Tensor:
        shifted = torch.ops.recfx_test.shifted(x, self.by.to(torch.float64).float(), times=3)
        left, right = torch.ops.recfx_test.halves(shifted + torch.tensor([1.0]), 1)
        return left * right


class Computed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = torch.ops.recfx_test.shifted(x, x.mean(0))
        return result


@pytest.mark.usefixtures("rules")
def test_an_operator_with_a_decomposition_is_gone_after_capture() -> None:
    model = Foreign().eval()
    program = capture(model, (torch.randn(3, 4),))
    assert not any("recfx_test" in str(node.target) for node in program.graph.nodes)
    x = torch.randn(5, 4)
    torch.testing.assert_close(program(x), model(x))


@pytest.mark.usefixtures("rules")
def test_an_argument_that_must_be_constant_and_is_not_is_a_capture_error() -> None:
    with pytest.raises(recfx.CaptureError, match="depends on the inputs"):
        capture(Computed().eval(), (torch.randn(3, 4),))


def test_without_a_decomposition_the_operator_stays() -> None:
    program = capture(Foreign().eval(), (torch.randn(3, 4),))
    assert sum("recfx_test" in str(node.target) for node in program.graph.nodes) == 2
