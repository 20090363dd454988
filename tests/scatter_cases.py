"""Small graphs that write one tensor into places of another one, with the groups of channels that the analysis must find in them."""

from __future__ import annotations

from typing import Any

import torch
from channel_cases import Case, Graph, aten, lookup

from recfx.ir import Program


def summed(g: Graph, target: Any, *more: Any, columns: int = 4) -> Program:
    """Rows of three positions, written into two places of each row of the batch."""
    rows = g.layer(columns, lookup(g))
    base = g.call(aten.new_zeros.default, g.x, [g.batch(), 2, 4])
    places = g.call(aten.unsqueeze.default, g.call(aten.remainder.Scalar, g.ids, 2), 2)
    index = g.call(aten.expand.default, places, [-1, -1, columns])
    return g.read(g.call(target, base, 1, index, rows, *more))


def written(g: Graph, target: Any, part: int, *where: Any) -> Program:
    """A layer of six channels of which a part is replaced by another layer."""
    other = g.layer(part)
    if target is aten.select_scatter.default:
        other = g.call(aten.squeeze.dim, other, 1)
    return g.read(g.call(target, g.layer(6), other, 1, *where))


SCATTERS = {
    "scatter_add": Case(lambda g: summed(g, aten.scatter_add.default), (4, 4)),
    "scatter": Case(lambda g: summed(g, aten.scatter.src), (4, 4)),
    "scatter_reduce": Case(lambda g: summed(g, aten.scatter_reduce.two, "amax"), (4, 4)),
    "scatter_add to a part": Case(
        lambda g: summed(g, aten.scatter_add.default, columns=3), (4,), ("a part of the axis",)
    ),
    "scatter_add along channels": Case(
        lambda g: g.read(g.call(aten.scatter_add.default, g.layer(4), 1, g.ids, g.layer(3))), misses=("indices give",)
    ),
    "index_add": Case(
        lambda g: g.read(
            g.call(
                aten.index_add.default,
                g.weight(7, 4),
                0,
                g.constant(torch.tensor([1, 1, 3])),
                g.call(aten.linear.default, g.weight(3, 5), g.weight(4, 5)),
            )
        ),
        (4, 5),
        ("indices give",),
    ),
    "slice_scatter": Case(lambda g: written(g, aten.slice_scatter.default, 3, 1, 4), (3, 3)),
    "slice_scatter of one": Case(lambda g: written(g, aten.slice_scatter.default, 1, 1, 2), (5,), ("single element",)),
    "slice_scatter with a step": Case(
        lambda g: written(g, aten.slice_scatter.default, 3, 0, 6, 2), misses=("with a step",)
    ),
    "select_scatter": Case(lambda g: written(g, aten.select_scatter.default, 1, 2), (5,), ("single element",)),
    "select_scatter of positions": Case(
        lambda g: g.read(g.call(aten.select_scatter.default, lookup(g), g.layer(4), 1, 2)), (4,)
    ),
    "empty_like that is written": Case(
        lambda g: (
            lambda h: g.read(g.call(aten.slice_scatter.default, g.call(aten.empty_like.default, h), h, 1, 0, 4))
        )(g.layer(4)),
        (4,),
    ),
}
