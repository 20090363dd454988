"""Sizes as linear functions of the batch: found from numbers, and computed by nodes from an input with several entries
per row."""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import fx

from recfx.capture.size_lines import Line, Sizes, line_through
from recfx.ir.propagate import fake_inputs


@given(
    factor=st.integers(-5, 5),
    base=st.integers(-9, 9),
    batches=st.lists(st.integers(1, 40), min_size=3, max_size=3, unique=True),
    off=st.integers(-2, 2),
)
def test_a_line_holds_at_the_third_batch_as_well(factor: int, base: int, batches: list[int], off: int) -> None:
    values = [factor * b + base for b in batches]
    assert line_through(batches, values) == Line(factor, base)
    assert line_through(batches, [float(v) for v in values]) == Line(factor, base, True)
    values[2] += off
    assert (line_through(batches, values) is None) == bool(off)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ([1.0 / 4, 1.0 / 5, 1.0 / 7], Line(0, 0, True, 1.0)),
        ([0.75, 3.0 / 5, 3.0 / 7], Line(0, 0, True, 3.0)),
        ([0.75, 3.0 / 5, 3.0 / 8], None),
        ([2.0, 2.5, 3.5], None),  # half a batch is not a whole number at every batch
        ([1, 2.0, 3.0], None),
        ([0.5, 0.5, 0.5], None),
        ([3, 3, 3], Line(0, 3)),
        ([4, 5, 7], Line(1, 0)),
    ],
)
def test_lines_through_numbers_at_4_5_and_7_rows(values: list[Any], line: Line | None) -> None:
    assert line_through([4, 5, 7], values) == line


@pytest.mark.parametrize("step", [1, 3])
@pytest.mark.parametrize(
    ("line", "at_four", "made"),
    [
        (Line(1, 0), 4, 0),
        (Line(2, 0), 8, 1),
        (Line(1, 5), 9, 1),
        (Line(2, -5), 3, 2),
        (Line(0, 6), 6, 0),
        (Line(0, 6, True), 6.0, 0),
        (Line(2, 1, True), 9.0, 3),
        (Line(0, 0, True, 3.0), 0.75, 1),
    ],
)
def test_nodes_compute_lines(line: Line, at_four: float, made: int, step: int) -> None:
    """The batch is known only from an input with `step` entries per row."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    (x.meta["val"],) = fake_inputs([((f"{step}*batch", 2), torch.float32, torch.device("cpu"))])
    graph.output(x)
    module = fx.GraphModule(torch.nn.Module(), graph)
    x, output = module.graph.nodes
    sizes = Sizes(module, x, x.meta["val"].shape[0] // step, x, 0, step)
    before = len(module.graph.nodes)
    with module.graph.inserting_before(output):
        output.args = (sizes.node(line),)
    module.recompile()
    found = module(torch.zeros(4 * step, 2))
    assert (found, type(found)) == (at_four, type(at_four))
    assert len(module.graph.nodes) - before == made
    divisions = [n for n in module.graph.nodes if n.target is operator.floordiv]
    assert len(divisions) == (step != 1)
