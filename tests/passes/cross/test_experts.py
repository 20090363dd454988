"""Columns of gates, and sums of experts that are weighted by them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import fx

from recfx.passes.cross.experts import _column, _gated_terms
from recfx.testing.builder import GraphBuilder

aten = torch.ops.aten

GRAPH: dict[str, Any] = {"g": ("batch", 3), "h": ("batch", 3), "x": ("batch", 4), "s": ("batch", 3, 4)}

#: Operators on the gates g [B, 3] -> the number of the column that they take, or None.
COLUMNS: dict[str, tuple[list[tuple[Any, ...]], int | None]] = {
    "a slice": ([(aten.slice.Tensor, 1, 2, 3)], 2),
    "a slice of the last dimension": ([(aten.slice.Tensor, -1, 0, 1)], 0),
    "a selection": ([(aten.select.int, 1, 1), (aten.unsqueeze.default, 1)], 1),
    "a selection of the last dimension": ([(aten.select.int, -1, 2), (aten.unsqueeze.default, -1)], 2),
    "two columns": ([(aten.slice.Tensor, 1, 1, 3)], None),
    "a slice of rows": ([(aten.slice.Tensor, 0, 0, 1)], None),
    "a slice with a step": ([(aten.slice.Tensor, 1, 0, 1, 1)], None),
    "a slice to the end": ([(aten.slice.Tensor, 1, 2)], None),
    "a selection of a row": ([(aten.select.int, 0, 0), (aten.unsqueeze.default, 0)], None),
    "a selection, unsqueezed in front": ([(aten.select.int, 1, 1), (aten.unsqueeze.default, 0)], None),
    "a selection alone": ([(aten.select.int, 1, 1)], None),
    "a selection from the end": ([(aten.select.int, 1, -1), (aten.unsqueeze.default, 1)], None),
    "another operator": ([(aten.exp.default,)], None),
}


def built(builder: GraphBuilder, source: fx.Node, steps: list[tuple[Any, ...]]) -> fx.Node:
    for target, *args in steps:
        source = builder.call(target, source, *args)
    return source


@pytest.mark.parametrize("name", COLUMNS)
def test_the_column_of_a_gate(name: str) -> None:
    steps, number = COLUMNS[name]
    builder = GraphBuilder(GRAPH)
    found = _column(built(builder, builder.inputs["g"], steps))
    assert found == (None if number is None else (builder.inputs["g"], number))


@pytest.mark.parametrize(
    "steps", [[(aten.slice.Tensor, 1, 0, 1)], [(aten.select.int, 1, 0), (aten.unsqueeze.default, 1)]]
)
def test_gates_of_three_dimensions_have_no_columns(steps: list[tuple[Any, ...]]) -> None:
    builder = GraphBuilder(GRAPH)
    assert _column(built(builder, builder.inputs["s"], steps)) is None


@pytest.mark.parametrize("value", [None, 2.0, "x"])
def test_numbers_have_no_columns(value: Any) -> None:
    assert _column(value) is None


def weighted(order: tuple[int, ...], sources: str = "ggg", swapped: bool = False, target: Any = aten.mul.Tensor) -> Any:
    """Terms x_e * g[:, e:e + 1]; returns the terms, the experts and the gates."""
    builder = GraphBuilder(GRAPH)
    experts, terms = [], []
    for column, name in zip(order, sources, strict=False):
        expert = builder.call(aten.exp.default, builder.inputs["x"])
        gate = builder.call(aten.slice.Tensor, builder.inputs[name], 1, column, column + 1)
        terms.append(builder.call(target, *((gate, expert) if swapped else (expert, gate))))
        experts.append(expert)
    return terms, experts, builder.inputs["g"]


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_terms_in_the_order_of_their_gates(count: int, swapped: bool) -> None:
    terms, experts, gates = weighted((0, 1, 2)[:count], swapped=swapped)
    assert _gated_terms(terms) == (experts, gates)


@pytest.mark.parametrize(
    "more",
    [
        {"order": (1, 0)},
        {"order": (0, 2)},
        {"order": (0, 0)},
        {"order": (1,)},
        {"order": (0, 1), "sources": "gh"},
        {"order": (0, 1), "target": aten.add.Tensor},
    ],
)
def test_other_terms(more: dict[str, Any]) -> None:
    assert _gated_terms(weighted(**more)[0]) is None
