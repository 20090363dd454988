"""The work of operators by families: which family, and the counts of products, lookups, convolutions and recurrent layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from calibration_kit import some_machine
from hypothesis import given, settings
from torch import nn

from recfx.capture import capture
from recfx.cost.calibration_modules import subjects
from recfx.cost.families import family_of
from recfx.cost.priors import prior
from recfx.cost.roofline import columns
from recfx.cost.work import Lookups, Work, work_of
from recfx.ir import Program
from recfx.ir.region import Region
from recfx.passes import NATIVE_PIPELINE
from recfx.pipeline import Pipeline
from recfx.testing import GraphBuilder, rec_graphs

aten = torch.ops.aten


def work(target: Any, *args: Any, rows: int = 10, **inputs: Any) -> Work:
    """The work of one operator; strings name inputs, tensors become state."""
    b = GraphBuilder(inputs)
    held = [
        b.state(f"s{i}", a) if isinstance(a, torch.Tensor) else b.inputs.get(a, a) if isinstance(a, str) else a
        for i, a in enumerate(args)
    ]
    (found,) = work_of(Region.whole(b.build(b.call(target, *held))), rows)
    return found


X = {"x": ("batch", 4)}


@pytest.mark.parametrize(
    ("found", "family"),
    [
        (work(aten.linear.default, "x", torch.ones(3, 4), **X), "product"),
        (work(aten.relu.default, "x", **X), "elementwise"),
        (work(aten.gelu.default, "x", **X), "transcendental"),
        (work(aten.gt.Scalar, "x", 0, **X), "mask"),
        (work(aten.sum.dim_IntList, "x", [1], **X), "sum"),
        (work(aten.softmax.int, "x", 1, **X), "normalization"),
        (work(aten.view.default, "x", [-1], **X), "view"),
        (work(aten.flip.default, "x", [1], **X), "copy"),
        (work(aten.embedding.default, torch.ones(9, 5), "x", x=(("batch",), torch.int64)), "lookup"),
        (work(aten.index_select.default, torch.ones(9, 5), 0, "x", x=(("batch",), torch.int64)), "lookup"),
        (work(aten.index_select.default, "y", 1, "x", x=((3,), torch.int64), y=("batch", 4)), "copy"),
        (work(aten.lgamma.default, "x", **X), "elementwise"),
        (work(aten.logdet.default, "x", x=("batch", 4, 4)), "other"),
    ],
)
def test_families(found: Work, family: str) -> None:
    assert found.family == family


def test_a_reshape_that_copies_is_a_copy() -> None:
    b = GraphBuilder({"x": ("batch", 4, 5)})
    turned = b.call(aten.transpose.int, b.inputs["x"], 1, 2)
    first = b.call(aten.reshape.default, turned, [-1, 20])
    second = b.call(aten.reshape.default, first, [-1, 2, 10])
    program = b.build(second)
    families = [family_of(node) for node in program.graph.nodes if node.op == "call_function"]
    assert families == ["view", "copy", "view"]


def test_counts_of_a_product() -> None:
    found = work(aten.linear.default, "x", torch.ones(3, 4), **X)
    assert found.multiply_adds == 10 * 4 * 16  # three columns fill a vector of 16
    assert (found.moved, found.written, found.weights) == (4 * 10 * (4 + 3), 4 * 10 * 3, 4 * 12)
    assert found.precision == "fp32"


def test_counts_of_batched_products_and_heads() -> None:
    found = work(aten.bmm.default, "x", "y", x=("batch", 3, 4), y=("batch", 4, 16))
    assert (found.multiply_adds, found.pieces) == (10 * 3 * 4 * 16, 10)
    heads = ("batch", 2, 6, 8)
    found = work(aten.scaled_dot_product_attention.default, "x", "y", "y", x=heads, y=heads)
    assert (found.multiply_adds, found.pieces) == (2 * 10 * 2 * 6 * 8 * 6, 20)


def test_rows_of_tables() -> None:
    ids = (("batch", 5), torch.int64)
    found = work(aten.embedding.default, torch.ones(9, 6), "x", x=ids)
    assert found.lookups == (Lookups(50, 24, 9 * 24),)
    assert found.weights == 0


@pytest.mark.parametrize(
    ("module", "shape", "multiply_adds"),
    [
        (nn.Conv1d(6, 4, 3, padding=1), (6, 10), 7 * 4 * 10 * 6 * 3),
        (nn.Conv2d(4, 8, (3, 1), groups=2), (4, 9, 5), 7 * 8 * 7 * 5 * 2 * 3),
        (nn.ConvTranspose1d(6, 4, 3), (6, 10), 7 * 6 * 10 * 4 * 3),
        (nn.GRU(5, 8, batch_first=True), (11, 5), 7 * 11 * 3 * 8 * (5 + 8)),
        (
            nn.LSTM(5, 8, num_layers=2, bidirectional=True, batch_first=True),
            (11, 5),
            7 * 11 * 2 * 4 * 8 * (5 + 8 + 16 + 8),
        ),
        (nn.MaxPool1d(2), (6, 10), 7 * 6 * 5 * 2),
        (nn.AvgPool2d(2), (3, 4, 4), 7 * 3 * 2 * 2 * 4),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_counts_of_layers(module: nn.Module, shape: tuple[int, ...], multiply_adds: int) -> None:
    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found = self.inner(x)
            return found[0] if isinstance(found, tuple) else found

    region = Region.whole(capture(First().eval(), (torch.zeros(3, *shape),)))
    largest = max(work_of(region, 7), key=lambda part: part.multiply_adds)
    assert largest.multiply_adds == multiply_adds
    assert largest.family in ("convolution", "recurrent", "pooling")


def test_einsum() -> None:
    b = GraphBuilder({"x": ("batch", 4), "y": ("batch", 6)})
    outer = b.call(aten.einsum.default, "bi,bj->bij", [b.inputs["x"], b.inputs["y"]])
    (found,) = work_of(Region.whole(b.build(outer)), 10)
    assert found.family == "product"
    assert found.multiply_adds == 10 * 4 * 6 * 16 // 6  # six columns fill a vector of 16


def test_precision() -> None:
    narrow = work(aten.linear.default, "x", torch.ones(16, 4).bfloat16(), x=(("batch", 4), torch.bfloat16))
    assert narrow.precision == "bf16"


@settings(max_examples=30)
@given(program=rec_graphs(max_steps=10))
def test_counts_are_never_negative_and_no_operator_is_forgotten(program: Program) -> None:
    region = Region.whole(program)
    calls = [n for n in region.graph.nodes if n.op == "call_function" and isinstance(n.target, torch._ops.OpOverload)]
    for rows in (1, 64):
        found = work_of(region, rows)
        assert len(found) == len(calls)
        for part in found:
            counts = (part.multiply_adds, part.moved, part.written, part.weights, part.pieces, part.layers - 1)
            assert min(counts) >= 0
        assert all(value > 0 for value in columns(found, some_machine()).values())


def test_operators_of_the_dialect_are_families_of_their_own() -> None:
    subject = next(s for s in subjects() if s.name == "cross layers")
    program = Pipeline(NATIVE_PIPELINE).run(capture(subject.build().eval(), subject.inputs(4))).program
    (found,) = work_of(Region.whole(program), 8)
    assert (found.family, found.layers) == ("cross", 2)
    assert prior("native").weight("cross.fp32") < 2
