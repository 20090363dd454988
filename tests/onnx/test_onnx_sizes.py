"""Sizes in ONNX models: constant and free ones side by side, arithmetic on them, and what is refused."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx

from recfx.ir.program import Program
from recfx.ir.region import Region
from recfx.testing.builder import GraphBuilder

pytest.importorskip("onnxruntime", reason='pip install "recfx[onnxruntime]"')

from recfx.onnx.translate import Refusals, translate
from recfx.onnx.types import Untranslated
from recfx.targets import BACKENDS

_aten = torch.ops.aten
#: Rows of x, and rows of y.
SIZES = ((1, 1), (2, 5), (7, 3))

Builds = Callable[[GraphBuilder, fx.Node, fx.Node], fx.Node]


def program_of(build: Builds, width: int = 6) -> Program:
    """A program of x [batch, width] and y [n, 1], made from the inputs' free sizes."""
    builder = GraphBuilder({"x": ("batch", width), "y": ("n", 1)})
    x, y = builder.inputs.values()
    rows, others = (builder.call(_aten.sym_size.int, value, 0) for value in (x, y))
    made = build(builder, rows, others)
    used = builder.call(_aten.mul.Tensor, made, 2)
    return builder.build(used, builder.call(_aten.neg.default, x), builder.call(_aten.neg.default, y))


def require_same(program: Program, width: int = 6) -> None:
    lowered = BACKENDS["onnxruntime"].lower(Region.whole(program))
    for rows, others in SIZES:
        leaves = [
            torch.arange(rows * width).reshape(rows, width).float(),
            torch.arange(others).reshape(others, 1).float(),
        ]
        for wanted, got in zip(program.run(leaves), lowered.run(*leaves), strict=True):
            assert (got.dtype, got.tolist()) == (wanted.dtype, wanted.tolist())
            assert got.shape == wanted.shape


#: Name -> sizes of a full tensor, from the numbers of rows of x and y.
SHAPES: dict[str, Callable[[Any, Any], list[Any]]] = {
    "one free size": lambda rows, others: [rows],
    "behind a fixed size": lambda rows, others: [3, rows],
    "before a fixed size": lambda rows, others: [rows, 3],
    "between fixed sizes": lambda rows, others: [2, 4, rows, 3, 1],
    "two free sizes": lambda rows, others: [others, rows],
    "two free sizes apart": lambda rows, others: [rows, 2, 1, others],
    "the same free size twice": lambda rows, others: [rows, rows],
    "an empty dimension": lambda rows, others: [rows, 0, 2],
    "fixed sizes": lambda rows, others: [2, 3],
    "no sizes": lambda rows, others: [],
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_tensor_of_free_sizes(name: str) -> None:
    require_same(program_of(lambda b, rows, others: b.call(_aten.full.default, SHAPES[name](rows, others), 1.5)))


#: Name -> sizes that x [batch, 6] is read with, of equal numbers of elements.
VIEWS: dict[str, Callable[[Any, Any], list[Any]]] = {
    "split": lambda rows, others: [rows, 2, 3],
    "behind": lambda rows, others: [3, rows, 2],
    "inferred": lambda rows, others: [rows, -1],
    "inferred rows": lambda rows, others: [-1, 2, 3],
    "flat": lambda rows, others: [-1],
}


@pytest.mark.parametrize("name", VIEWS)
def test_a_tensor_with_other_sizes(name: str) -> None:
    require_same(
        program_of(lambda b, rows, others: b.call(_aten.reshape.default, b.inputs["x"], VIEWS[name](rows, others)))
    )


@pytest.mark.parametrize("sizes", [lambda rows: [rows, 0, 3], lambda rows: [0, rows], lambda rows: [2, 0, rows]])
def test_an_empty_tensor_with_other_sizes(sizes: Callable[[Any], list[Any]]) -> None:
    program = program_of(lambda b, rows, others: b.call(_aten.reshape.default, b.inputs["x"], sizes(rows)), width=0)
    require_same(program, width=0)


@pytest.mark.parametrize(
    "sizes",
    [
        lambda rows, others: [others, rows],
        lambda rows, others: [2, others, rows],
        lambda rows, others: [rows, others, 3, rows],
    ],
)
def test_rows_are_repeated_to_free_sizes(sizes: Callable[[Any, Any], list[Any]]) -> None:
    def build(b: GraphBuilder, rows: fx.Node, others: fx.Node) -> fx.Node:
        return b.call(_aten.expand.default, b.call(_aten.sum.default, b.inputs["x"]), sizes(rows, others))

    require_same(program_of(build))


@pytest.mark.parametrize(
    "times",
    [lambda rows, others: [rows, 1], lambda rows, others: [others, rows], lambda rows, others: [2, others, rows]],
)
def test_a_tensor_is_repeated_a_free_number_of_times(times: Callable[[Any, Any], list[Any]]) -> None:
    require_same(program_of(lambda b, rows, others: b.call(_aten.repeat.default, b.inputs["y"], times(rows, others))))


#: Name -> a size from two others. A remainder is added to a number: torch compares sizes with 1, which would fix a remainder.
ARITHMETIC: dict[str, Callable[[GraphBuilder, Any, Any], Any]] = {
    "+": lambda b, rows, others: b.call(operator.add, rows, 3),
    "+ of two": lambda b, rows, others: b.call(operator.add, rows, others),
    "-": lambda b, rows, others: b.call(operator.sub, b.call(operator.mul, rows, 4), rows),
    "*": lambda b, rows, others: b.call(operator.mul, rows, others),
    "//": lambda b, rows, others: b.call(operator.floordiv, rows, 2),
    "// of a negative": lambda b, rows, others: b.call(
        operator.add, 9, b.call(operator.floordiv, b.call(operator.neg, rows), 2)
    ),
    "%": lambda b, rows, others: b.call(operator.add, 5, b.call(operator.mod, rows, 3)),
    "% of a negative": lambda b, rows, others: b.call(
        operator.add, 5, b.call(operator.mod, b.call(operator.neg, rows), 4)
    ),
    "max": lambda b, rows, others: b.call(torch.sym_max, rows, 3),
    "min": lambda b, rows, others: b.call(torch.sym_min, rows, 2),
    "elements": lambda b, rows, others: b.call(_aten.sym_numel.default, b.inputs["x"]),
    "a fixed size": lambda b, rows, others: b.call(_aten.sym_size.int, b.inputs["x"], 1),
    "the last size": lambda b, rows, others: b.call(_aten.sym_size.int, b.inputs["x"], -1),
    "the first size from the end": lambda b, rows, others: b.call(_aten.sym_size.int, b.inputs["x"], -2),
}


@pytest.mark.parametrize("name", ARITHMETIC)
def test_arithmetic_on_sizes(name: str) -> None:
    require_same(
        program_of(lambda b, rows, others: b.call(_aten.full.default, [2, ARITHMETIC[name](b, rows, others)], 1.5))
    )


def test_other_arithmetic_on_sizes_is_refused_with_its_name() -> None:
    program = program_of(lambda b, rows, others: b.call(_aten.full.default, [b.call(operator.pow, rows, 2)], 1.5))
    with pytest.raises((Untranslated, Refusals), match=r"arithmetic on sizes by .*pow"):
        translate(Region.whole(program))
