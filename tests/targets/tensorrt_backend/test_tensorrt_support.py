"""The verdicts of the backend that do not depend on torch-tensorrt's registry."""

from __future__ import annotations

from operator import getitem
from typing import Any

import pytest
import torch
from handed_over import HandedOverBackend
from torch import fx

from recfx.ir.program import Program
from recfx.ir.region import Region
from recfx.targets import Refused
from recfx.targets.tensorrt import TensorRTBackend
from recfx.testing.builder import GraphBuilder

_aten = torch.ops.aten

SHAPES: dict[str, Any] = {
    "x": ("batch", 6),
    "ids": (("batch", 3), torch.int64),
    "flag": (("batch", 6), torch.bool),
    "double": (("batch", 6), torch.float64),
    "half": (("batch", 6), torch.bfloat16),
}


def one(make: Any) -> tuple[fx.Node, Program]:
    """The operator that a function adds to a graph, and the program that returns it."""
    b = GraphBuilder(SHAPES)
    made = make(b, **b.inputs)
    value = made.meta["val"]
    return made, b.build(made if isinstance(value, torch.Tensor) else b.call(getitem, made, 0))


TAKEN: dict[str, Any] = {
    "a layer": lambda b, x, **_: b.call(_aten.linear.default, x, b.state("w", torch.randn(2, 6))),
    "half precision": lambda b, half, **_: b.call(_aten.relu.default, half),
    "a lookup": lambda b, ids, **_: b.call(_aten.embedding.default, b.state("t", torch.randn(5, 2)), ids),
    "a comparison of ids": lambda b, ids, **_: b.call(_aten.ne.Scalar, ids, 0),
    "columns of ids": lambda b, ids, **_: b.call(_aten.slice.Tensor, ids, 1, 0, 2),
    "constant places": lambda b, x, **_: b.call(_aten.index_select.default, x, 1, b.state("p", torch.tensor([2, 0]))),
    "dropout of a trained model": lambda b, x, **_: b.call(_aten.dropout.default, x, 0.5, False),
    "the values of the largest": lambda b, x, **_: b.call(_aten.topk.default, x, 2),
}

LEFT: dict[str, tuple[Any, str]] = {
    "float64": (lambda b, double, **_: b.call(_aten.relu.default, double), "float64"),
    "arithmetic on integers": (lambda b, ids, **_: b.call(_aten.mul.Tensor, ids, 3), "integers are computed by torch"),
    "random numbers": (lambda b, x, **_: b.call(_aten.exponential.default, x), "random"),
    "dropout in training": (lambda b, x, **_: b.call(_aten.dropout.default, x, 0.5, True), "random"),
    "computed places": (lambda b, x, ids, **_: b.call(_aten.gather.default, x, 1, ids), "cannot be checked"),
    "sizes that depend on values": (lambda b, flag, **_: b.call(_aten.nonzero.default, flag), "sizes that depend"),
    "sparse tensors": (
        lambda b, x, **_: b.call(_aten._sparse_mm.default, b.state("s", torch.eye(4).to_sparse()), b.state("d", torch.ones(4, 2))),
        "sparse",
    ),
}  # fmt: skip


@pytest.mark.parametrize("make", TAKEN.values(), ids=TAKEN.keys())
def test_operators_that_an_engine_runs(make: Any) -> None:
    node, program = one(make)
    assert HandedOverBackend().supports(program)[node].supported


@pytest.mark.parametrize(("make", "reason"), LEFT.values(), ids=LEFT.keys())
def test_operators_that_torch_runs(make: Any, reason: str) -> None:
    node, program = one(make)
    verdict = HandedOverBackend().supports(program)[node]
    assert not verdict.supported
    assert reason in verdict.reason
    with pytest.raises(Refused, match=reason):
        HandedOverBackend().lower(Region.whole(program))


def test_a_table_with_more_rows_than_32_bits_count() -> None:
    b = GraphBuilder({"ids": (("batch",), torch.int64)})
    table = b.state("table", torch.zeros(1, 1).expand(2**31, 1))
    row = b.call(_aten.embedding.default, table, b.inputs["ids"])
    program = b.build(row)
    assert "more rows than 32-bit" in HandedOverBackend().supports(program)[row].reason


def test_ids_that_another_backend_computes_are_taken() -> None:
    b = GraphBuilder({"x": ("batch", 6)})
    best = b.call(_aten.argmax.default, b.inputs["x"], 1)
    row = b.call(_aten.embedding.default, b.state("table", torch.randn(6, 2)), best)
    program = b.build(row)
    verdicts = HandedOverBackend().supports(program)
    assert verdicts[row].supported
    assert not verdicts[best].supported


def test_a_converter_that_is_missing_is_named() -> None:
    class Without(HandedOverBackend):
        def _converter(self, node: fx.Node) -> str:
            return "torch-tensorrt has no converter for it" if node.target is _aten.relu.default else ""

    b = GraphBuilder(SHAPES)
    first = b.call(_aten.relu.default, b.inputs["x"])
    second = b.call(_aten.sigmoid.default, first)
    verdicts = Without().supports(b.build(second))
    assert verdicts[first].reason == "torch-tensorrt has no converter for it"
    assert verdicts[second].supported


COPIED: dict[str, Any] = {
    "a copy of an input": lambda b, x: [b.call(_aten.clone.default, x)],
    "a cast to the same type": lambda b, x: [b.call(_aten.to.dtype, x, torch.float32)],
    "a view of an input with its own shape": lambda b, x: [b.call(_aten.squeeze.dim, x, 1)],
    "a value and its copy": lambda b, x: [made := b.call(_aten.relu.default, x), b.call(_aten.detach.default, made)],
}


@pytest.mark.parametrize("make", COPIED.values(), ids=COPIED.keys())
def test_copies_that_are_returned_are_refused(make: Any) -> None:
    b = GraphBuilder({"x": ("batch", 6)})
    region = Region.whole(b.build(*make(b, b.inputs["x"])))
    with pytest.raises(Refused, match="needs no engine"):
        HandedOverBackend().lower(region)


def test_a_copy_of_a_value_that_only_it_returns_is_taken() -> None:
    b = GraphBuilder({"x": ("batch", 6)})
    copy = b.call(_aten.clone.default, b.call(_aten.relu.default, b.inputs["x"]))
    run = HandedOverBackend().lower(Region.whole(b.build(copy))).run
    assert torch.equal(run(torch.tensor([[-1.0, 2, 3, -4, 5, 6]]))[0], torch.tensor([[0.0, 2, 3, 0, 5, 6]]))


def test_the_backend_is_for_gpus() -> None:
    assert TensorRTBackend().devices == {"cuda"}
    assert TensorRTBackend().kernels() == frozenset()
