"""Arguments of nodes from a file: types of schemas, and forms that would read other memory or grow without bound."""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch
from torch import fx

from recfx.errors import ArtifactError
from recfx.ir.arguments import MOST_BYTES, _has_type, check_call, check_result
from recfx.testing import GraphBuilder

aten = torch.ops.aten


class Calls:
    """Nodes that are not run: a tensor x [batch, 4], a size, a weight, and calls of anything."""

    def __init__(self) -> None:
        self.b = GraphBuilder({"x": ("batch", 4), "q": ("batch", 2, 3, 4), "wide": ("batch", 1 << 17)})
        self.x, self.q, self.wide = (self.b.inputs[name] for name in ("x", "q", "wide"))
        self.size = self.b.call(aten.sym_size.int, self.x, 0)
        self.weight = self.b.state("w", torch.ones(3, 4))
        self.parts = self.b.call(aten.split.Tensor, self.x, 2, 1)

    def check(self, target: Any, *args: Any, **kwargs: Any) -> None:
        node = self.b.graph.call_function(target, args, kwargs)
        try:
            check_call(node, lambda n: n.meta.get("val"))
        finally:
            self.b.graph.erase_node(node)


calls = Calls()
x, q, wide, size, weight, parts = calls.x, calls.q, calls.wide, calls.size, calls.weight, calls.parts

TAKEN: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = [
    (aten.linear.default, (x, weight), {}),
    (aten.linear.default, (x, weight, None), {}),
    (aten.linear.default, (x, weight), {"bias": None}),
    (aten.add.Tensor, (x, x), {"alpha": 2}),
    (aten.add.Tensor, (x, 2.5), {"alpha": True}),
    (aten.sum.dim_IntList, (x, [1], True), {"dtype": torch.float64}),
    (aten.sum.dim_IntList, (x, 1), {}),
    (aten.sum.dim_IntList, (x, None), {}),
    (aten.reshape.default, (x, [size, -1]), {}),
    (aten.cat.default, ([x, x], 1), {}),
    (aten.cat.default, (parts, 1), {}),
    (aten.gelu.default, (x,), {"approximate": "tanh"}),
    (aten.to.dtype, (x, torch.float64), {}),
    (
        aten.zeros.default,
        ([2, size],),
        {"dtype": torch.float32, "layout": torch.strided, "device": torch.device("cpu")},
    ),
    (aten.clone.default, (x,), {"memory_format": torch.contiguous_format}),
    (aten.split.Tensor, (wide, 2, 1), {}),
    (aten.unbind.int, (x, 1), {}),
    (aten.chunk.default, (wide, 7, 1), {}),
    (aten.scaled_dot_product_attention.default, (q, q, q), {}),
    (aten._weight_norm.default, (weight, calls.b.state("g", torch.ones(3, 1))), {}),
    (aten._weight_norm.default, (weight, calls.b.state("g4", torch.ones(1, 4)), 1), {}),
    (aten._weight_norm.default, (weight, calls.b.state("g1", torch.ones(1)), -1), {}),
    (operator.add, (size, 2), {}),
    (operator.mul, (2.5, size), {}),
    (operator.pow, (size, 16), {}),
    (operator.pow, (size, -16.0), {}),
    (operator.getitem, (parts, 1), {}),
    (operator.getitem, (parts, -2), {}),
    (torch.sym_sum, ([size, 1, size],), {}),
    (torch._check, (True,), {"message": None}),
]

REFUSED: list[tuple[Any, tuple[Any, ...], dict[str, Any], str]] = [
    (aten.linear.default, (x,), {}, "argument 'weight' is missing"),
    (aten.linear.default, (x, weight, None, 1), {}, "4 arguments, the operator takes at most 3"),
    (aten.add.Tensor, (x, x, 2), {}, "3 arguments, the operator takes at most 2"),
    (aten.linear.default, (x, weight), {"scale": 1}, "'scale' is unknown or given twice"),
    (aten.linear.default, (x, weight, None), {"bias": None}, "'bias' is unknown or given twice"),
    (aten.linear.default, (x,), {"weight": weight}, "'weight' must be positional"),
    (aten.linear.default, (x, "w"), {}, "'weight' is not of type Tensor"),
    (aten.linear.default, (x, weight, "b"), {}, "'bias' is not of type Optional"),
    (aten.sum.dim_IntList, (x, [1.5]), {}, "'dim' is not of type"),
    (aten.sum.dim_IntList, (x, "1"), {}, "'dim' is not of type"),
    (aten.sum.dim_IntList, (x, [1], 2.0), {}, "'keepdim' is not of type bool"),
    (aten.sum.dim_IntList, (x, [1]), {"dtype": "float64"}, "'dtype' is not of type"),
    (aten.reshape.default, (x, [x]), {}, "'shape' is not of type"),
    (aten.cat.default, (x, 1), {}, "'tensors' is not of type List"),
    (aten.cat.default, ([x, "y"], 1), {}, "'tensors' is not of type List"),
    (aten.gelu.default, (x,), {"approximate": 1}, "'approximate' is not of type str"),
    (aten.select.int, (x, 1, 0.5), {}, "'index' is not of type int"),
    (aten.split.Tensor, (wide, 1, 1), {}, "a split into 131072 pieces, at most 65536"),
    (aten.unbind.int, (wide, 1), {}, "a split into 131072 pieces"),
    (aten.chunk.default, (wide, 65537, 1), {}, "a split into 65537 pieces"),
    (aten.scaled_dot_product_attention.default, (q, x, x), {}, "got 4, 2 and 2"),
    (aten.scaled_dot_product_attention.default, (q, q, calls.b.state("v", torch.ones(1, 2, 5, 4))), {}, "do not fit each other"),
    (aten.scaled_dot_product_attention.default, (q, calls.b.state("k", torch.ones(1, 2, 3, 5)), q), {}, "do not fit each other"),
    (aten._weight_norm.default, (weight, weight), {}, "expected 3 norms for .* got 12"),
    (aten._weight_norm.default, (weight, calls.b.state("g"[:1], torch.ones(3, 1)), 1), {}, "expected 4 norms for .* got 3"),
    (aten._weight_norm.default, (weight, weight, 2), {}, "dim 2 is outside of a tensor of 2"),
    (aten._weight_norm.default, (weight, weight, -2), {}, "dim -2 is outside of a tensor of 2"),
    (aten.segment_reduce.default, (x, "sum"), {"lengths": x, "unsafe": True}, "segment_reduce needs `lengths`"),
    (aten.segment_reduce.default, (x, "sum"), {}, "segment_reduce needs `lengths`"),
    (aten.segment_reduce.default, (x, "sum"), {"lengths": x, "offsets": x}, "segment_reduce needs `lengths`"),
    (operator.add, (size, x), {}, "arithmetic takes numbers and sizes"),
    (operator.add, (), {}, "arithmetic takes numbers and sizes"),
    (operator.add, ([size, 1], 2), {}, "arithmetic takes numbers and sizes"),
    (operator.add, (size,), {"other": 1}, "arithmetic takes no named arguments"),
    (operator.add, ("a", "b"), {}, "arithmetic takes numbers and sizes"),
    (operator.pow, (size, 17), {}, "a small constant exponent"),
    (operator.pow, (2, size), {}, "a small constant exponent"),
    (operator.pow, (size, True), {}, "a small constant exponent"),
    (operator.pow, (size, 2, 3), {}, "a small constant exponent"),
    (operator.getitem, (parts, 2), {}, "item 2 does not exist: there are 2"),
    (operator.getitem, (parts, -3), {}, "item -3 does not exist: there are 2"),
    (operator.getitem, (parts, True), {}, "getitem takes a list or tuple"),
    (operator.getitem, (x, 0), {}, "getitem takes a list or tuple"),
    (operator.getitem, (parts,), {}, "getitem takes a list or tuple"),
]  # fmt: skip


@pytest.mark.parametrize("at", range(len(TAKEN)))
def test_what_an_operator_takes(at: int) -> None:
    target, args, kwargs = TAKEN[at]
    calls.check(target, *args, **kwargs)


@pytest.mark.parametrize("at", range(len(REFUSED)))
def test_what_an_operator_does_not_take(at: int) -> None:
    target, args, kwargs, message = REFUSED[at]
    with pytest.raises(ArtifactError, match=message):
        calls.check(target, *args, **kwargs)


@pytest.mark.parametrize(
    ("kind", "fits", "wrong"),
    [
        ("Tensor", [x, 1, 2.5, True, 1j], ["a", None, [x]]),
        ("int", [1, True, size], [1.0, "1", x, None]),
        ("float", [1.0, 1, True, size], ["1", x, 1j, None]),
        ("bool", [True], [1, 0.0, "a"]),
        ("number", [1, 1.0, 1j, True, size], ["1", x]),
        ("complex", [1j, 1.0, 1], ["a", x]),
        ("str", ["a"], [1, None]),
        ("ScalarType", [torch.float32], [torch.strided, "float32", 6]),
        ("Layout", [torch.strided], [torch.float32, 0]),
        ("MemoryFormat", [torch.contiguous_format], [torch.strided, 0]),
        ("Device", [torch.device("cpu")], ["cpu", 0]),
        ("Generator", [], [1, None, x]),
        ("Optional[int]", [None, 3, size], ["a", 2.5]),
        ("List[int]", [[1, 2], (1, size), [], 5, size], [[1.5], "12", None, x]),
        ("List[Tensor]", [[x, x], [], parts], [x, [x, None], None]),
        ("List[Optional[Tensor]]", [[x, None], []], [[x, "a"], x]),
        ("Optional[List[float]]", [None, [1.0, 2]], [["a"], 2.0]),
    ],
)
def test_types_of_the_schema_language(kind: str, fits: list[Any], wrong: list[Any]) -> None:
    def value_of(node: fx.Node) -> Any:
        return node.meta["val"]

    for value in fits:
        assert _has_type(kind, value, value_of), value
    for value in wrong:
        assert not _has_type(kind, value, value_of), value


def test_values_of_a_size_that_no_model_has() -> None:
    meta = torch.device("meta")
    most = MOST_BYTES // 4
    for value in (
        torch.empty(most, device=meta),
        torch.empty(0, 3, device=meta),
        (1 << 63) - 1,
        -(1 << 63),
        True,
        "a",
        None,
        1e300,
    ):
        check_result(x, value)
        check_result(x, [value, (1)])
    for value, message in (
        (torch.empty(most + 1, device=meta), "more than 64 GiB"),
        (torch.empty(2, most, device=meta), "more than 64 GiB"),
        (torch.empty([1] * 65, device=meta), "a tensor of 65 dimensions"),
        (1 << 63, "outside int64"),
        (-(1 << 63) - 1, "outside int64"),
    ):
        for given in (value, [1, value]):
            with pytest.raises(ArtifactError, match=message):
                check_result(x, given)
    check_result(x, torch.empty([1] * 64, device=meta))
    check_result(x, size.meta["val"])
    grown = size.meta["val"]
    for factor in range(2, 700):
        grown = grown + (size.meta["val"] // factor)
    with pytest.raises(ArtifactError, match="more than 600 terms"):
        check_result(x, grown)
