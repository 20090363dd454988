"""Regions of unusual forms, and a small model with several operators that most backends support."""

from __future__ import annotations

import torch

from recfx.ir.program import Program
from recfx.ir.region import Region
from recfx.testing.builder import GraphBuilder

_aten = torch.ops.aten


def tower(*, table: bool = False) -> Program:
    """Two linear layers with an activation between them; with `table`, their input is the row of an id."""
    generator = torch.Generator().manual_seed(5)
    shapes = {"x": (("batch",), torch.int64)} if table else {"x": ("batch", 6)}
    b = GraphBuilder(shapes)
    x = b.inputs["x"]
    if table:
        x = b.call(_aten.embedding.default, b.state("table", torch.randn(7, 6, generator=generator)), x)
    first = b.state("first", torch.randn(8, 6, generator=generator))
    bias = b.state("bias", torch.randn(8, generator=generator))
    second = b.state("second", torch.randn(2, 8, generator=generator))
    hidden = b.call(_aten.relu.default, b.call(_aten.linear.default, x, first, bias))
    return b.build(b.call(_aten.linear.default, hidden, second))


def no_outputs() -> Region:
    """A region that computes a value which nobody reads."""
    region = Region.whole(tower()).clone()
    (output,) = region.graph.find_nodes(op="output")
    output.args = ((),)
    region.module.recompile()
    return Region(region.module, region.batch, region.inputs, (), region.checked)


def a_view() -> Region:
    """A region of one view."""
    b = GraphBuilder({"x": ("batch", 2, 3)})
    return Region.whole(b.build(b.call(_aten.permute.default, b.inputs["x"], [0, 2, 1])))


def a_returned_input() -> Region:
    """A region that returns its input and one function of it."""
    b = GraphBuilder({"x": ("batch", 3)})
    return Region.whole(b.build(b.inputs["x"], b.call(_aten.relu.default, b.inputs["x"])))


def the_same_output_twice() -> Region:
    b = GraphBuilder({"x": ("batch", 3)})
    made = b.call(_aten.relu.default, b.inputs["x"])
    return Region.whole(b.build(made, made))


def constants_only() -> Region:
    """A region whose operators read only state."""
    b = GraphBuilder({"x": ("batch", 3)})
    state = b.state("state", torch.tensor([[-1.0, 2.0], [3.0, -4.0]]))
    return Region.whole(b.build(b.call(_aten.relu.default, state)))


def an_unused_input() -> Region:
    b = GraphBuilder({"x": ("batch", 3), "unused": ("batch", 2)})
    return Region.whole(b.build(b.call(_aten.relu.default, b.inputs["x"])))


def fixed_sizes() -> Region:
    """A region without a free dimension."""
    b = GraphBuilder({"x": (3, 4)})
    return Region.whole(b.build(b.call(_aten.relu.default, b.inputs["x"])))


def two_free_sizes() -> Region:
    """A region with the batch and a second free dimension."""
    b = GraphBuilder({"x": ("batch", "length", 4)})
    return Region.whole(b.build(b.call(_aten.relu.default, b.inputs["x"])))


UNUSUAL = (
    *(no_outputs, a_view, a_returned_input, the_same_output_twice, constants_only, an_unused_input),
    *(fixed_sizes, two_free_sizes),
)


def values_for(region: Region, batch: int) -> list[torch.Tensor]:
    """Random inputs of a region with some rows."""
    generator = torch.Generator().manual_seed(batch)
    made = []
    for node in region.placeholders():
        held = node.meta["val"]
        shape = [
            size if isinstance(size, int) else batch + 2 * (position > 0) for position, size in enumerate(held.shape)
        ]
        if held.dtype.is_floating_point:
            made.append(torch.randn(shape, generator=generator))
        else:
            made.append(torch.randint(0, 7, shape, generator=generator))
    return made
