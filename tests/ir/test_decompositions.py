"""Operators of other libraries are found by name and rewritten at capture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import recfx
from recfx.capture import capture
from recfx.ir.arguments import check_call
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


class Segments(nn.Module):
    """A mean of each segment of rows, whose bounds are offsets or lengths."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.table = nn.Embedding(20, 3)

    def forward(self, ids: Tensor, bounds: Tensor) -> Tensor:
        given = {"offsets": bounds} if self.kind == "offsets" else {"lengths": bounds}
        return torch.segment_reduce(self.table(ids), "mean", axis=0, unsafe=self.kind == "unchecked", **given)


@pytest.mark.parametrize("kind", ["offsets", "lengths", "unchecked"])
def test_segments_are_checked(kind: str, tmp_path: Path) -> None:
    lengths = torch.tensor([3, 0, 1, 4])
    bounds = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]) if kind == "offsets" else lengths
    model, ids = Segments(kind).eval(), torch.arange(8)
    program = capture(model, (ids, bounds))
    (reduce,) = program.graph.find_nodes(op="call_function", target=_aten.segment_reduce.default)
    assert "offsets" not in reduce.kwargs
    assert not reduce.kwargs["unsafe"]
    torch.testing.assert_close(program.run((ids, bounds))[0], model(ids, bounds), equal_nan=True)
    beyond = bounds.clone()
    beyond[-1] += 900
    with pytest.raises(RuntimeError, match="segment_reduce"):
        program.run((ids, beyond))

    fast = recfx.optimize(model, example_inputs=(ids, bounds), measure=False)
    fast.save(tmp_path / "model")
    loaded = recfx.load(tmp_path / "model")
    for compiled in (fast, loaded):
        torch.testing.assert_close(compiled(ids, bounds), model(ids, bounds), equal_nan=True)
        with pytest.raises(recfx.RecfxError):
            compiled(ids, beyond)


@pytest.mark.parametrize("change", [{"unsafe": True}, {"lengths": None}, {"offsets": 0}], ids=str)
def test_a_saved_program_reads_no_unchecked_segments(change: dict[str, object]) -> None:
    program = capture(Segments("lengths").eval(), (torch.arange(8), torch.tensor([3, 0, 1, 4])))
    (reduce,) = program.graph.find_nodes(op="call_function", target=_aten.segment_reduce.default)
    check_call(reduce, lambda n: n.meta["val"])
    lengths = reduce.kwargs["lengths"]
    reduce.kwargs = {
        **reduce.kwargs,
        **{name: lengths if value == 0 and name == "offsets" else value for name, value in change.items()},
    }
    with pytest.raises(recfx.ArtifactError, match="segment_reduce needs `lengths`"):
        check_call(reduce, lambda n: n.meta["val"])
