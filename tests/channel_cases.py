"""Small graphs around one operator, with the groups of channels that the analysis must find in them.

Each graph has linears around the operator, so that its channels are tied to neither an input nor an output.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from recfx.ir import Program
from recfx.testing import GraphBuilder

aten = torch.ops.aten


class Graph:
    """A graph with an input `x` [batch, 5] and ids [batch, 3], built with new random weights."""

    def __init__(self) -> None:
        self.builder = GraphBuilder({"x": ("batch", 5), "ids": (("batch", 3), torch.int64)})
        self.x, self.ids = self.builder.inputs["x"], self.builder.inputs["ids"]
        self._generator = torch.Generator().manual_seed(1)
        self._count = 0

    def weight(self, *shape: int) -> fx.Node:
        """A new parameter."""
        self._count += 1
        return self.builder.state(f"w{self._count}", torch.randn(shape, generator=self._generator))

    def constant(self, tensor: torch.Tensor) -> fx.Node:
        """A new buffer."""
        self._count += 1
        return self.builder.state(f"c{self._count}", tensor)

    def call(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """An operator."""
        return self.builder.call(target, *args, **kwargs)

    def layer(self, outputs: int, x: fx.Node | None = None) -> fx.Node:
        """A linear with a bias over a value, by default the input."""
        x = self.x if x is None else x
        return self.call(aten.linear.default, x, self.weight(outputs, x.meta["val"].shape[-1]), self.weight(outputs))

    def batch(self) -> fx.Node:
        """The size of the batch."""
        return self.call(torch.ops.aten.sym_size.int, self.x, 0)

    def read(self, *values: fx.Node) -> Program:
        """The program that returns a linear with two outputs over each value."""
        return self.builder.build(*(self.layer(2, value) for value in values), seed=0, batch=3)


@dataclasses.dataclass(frozen=True)
class Case:
    """A graph and its groups.

    Attributes:
        build: Makes the program.
        groups: The sizes of the groups that must be found, in any order.
        misses: Parts of the reasons for channels that stay; no other reasons may be given.
    """

    build: Callable[[Graph], Program]
    groups: tuple[int, ...] = ()
    misses: tuple[str, ...] = ()


def heads(g: Graph) -> Program:
    """Attention with two heads of size 4, the heads behind the batch."""
    rows = g.batch()
    query, key, value = (
        g.call(aten.permute.default, g.call(aten.reshape.default, part, [rows, 3, 2, 4]), [0, 2, 1, 3])
        for part in (g.layer(8, g.call(aten.embedding.default, g.weight(9, 6), g.ids)) for _ in range(3))
    )
    scores = g.call(aten.matmul.default, query, g.call(aten.permute.default, key, [0, 1, 3, 2]))
    mixed = g.call(aten.matmul.default, g.call(aten.softmax.int, scores, -1), value)
    back = g.call(aten.permute.default, mixed, [0, 2, 1, 3])
    return g.read(g.call(aten.reshape.default, back, [rows, 3, 8]))


def merged_heads(g: Graph) -> Program:
    """A packed projection of two heads, which are merged with the batch, as `nn.MultiheadAttention` does it."""
    rows = g.batch()
    packed = g.layer(24, g.call(aten.embedding.default, g.weight(9, 6), g.ids))
    parts = g.call(aten.permute.default, g.call(aten.reshape.default, packed, [rows, 3, 3, 8]), [2, 1, 0, 3])
    folded = []
    for place in range(3):
        part = g.call(aten.select.int, parts, 0, place)
        merged = g.call(aten.reshape.default, part, [3, g.call(operator.mul, rows, 2), 4])
        folded.append(g.call(aten.permute.default, merged, [1, 0, 2]))
    mixed = g.call(aten.scaled_dot_product_attention.default, *folded)
    back = g.call(aten.permute.default, mixed, [1, 0, 2])
    return g.read(g.call(aten.reshape.default, back, [3, rows, 8]))


def gru(g: Graph, layers: int = 1, bidirectional: bool = False) -> Program:
    sequence = g.call(aten.embedding.default, g.weight(9, 4), g.ids)
    directions, width, params = 1 + bidirectional, 4, []
    for _ in range(layers):
        for _ in range(directions):
            params += [g.weight(9, width), g.weight(9, 3), g.weight(9), g.weight(9)]
        width = 3 * directions
    state = g.call(aten.new_zeros.default, g.x, [layers * directions, g.batch(), 3])
    both = g.call(aten.gru.input, sequence, state, params, True, layers, 0.0, False, bidirectional, True)
    return g.read(g.call(operator.getitem, both, 0), g.call(operator.getitem, both, 1))


def grouped(g: Graph, inputs: int, outputs: int, groups: int) -> Program:
    """A convolution over three positions whose channels are in groups."""
    channels = g.call(aten.permute.default, g.layer(inputs, lookup(g)), [0, 2, 1])
    kernel, bias = g.weight(outputs, inputs // groups, 2), g.weight(outputs)
    found = g.call(aten.conv1d.default, channels, kernel, bias, [1], [0], [1], groups)
    return g.read(g.call(aten.permute.default, found, [0, 2, 1]))


def lookup(g: Graph, columns: int = 4) -> fx.Node:
    """Rows of a new table, [batch, 3, columns]."""
    return g.call(aten.embedding.default, g.weight(9, columns), g.ids)


def table_rows(g: Graph, columns: int = 4) -> fx.Node:
    """Rows of a new table, [batch, columns]."""
    return g.call(aten.embedding.default, g.weight(9, columns), g.call(aten.select.int, g.ids, 1, 0))


VIEWS = {
    "chain": Case(lambda g: g.read(g.layer(4, g.layer(6))), (6, 4)),
    "input and output stay": Case(lambda g: g.builder.build(g.layer(4))),
    "residual": Case(lambda g: (lambda h: g.read(g.call(aten.add.Tensor, h, g.layer(4, h))))(g.layer(4)), (4,)),
    "concatenation": Case(lambda g: g.read(g.call(aten.cat.default, [g.layer(4), g.x, g.layer(3)], 1)), (4, 3)),
    "concatenation twice": Case(lambda g: (lambda h: g.read(g.call(aten.cat.default, [h, h], 1)))(g.layer(4)), (4,)),
    "stack": Case(lambda g: g.read(g.call(aten.stack.default, [g.layer(4), g.layer(4), g.layer(4)], 1)), (4,)),
    "flattened stack": Case(
        lambda g: g.read(
            g.call(aten.reshape.default, g.call(aten.stack.default, [table_rows(g), table_rows(g)], 1), [-1, 8])
        ),
        (4, 2),
    ),
    "split": Case(
        lambda g: (lambda parts: g.read(*(g.call(operator.getitem, parts, i) for i in range(3))))(
            g.call(aten.split.Tensor, g.layer(8), 3, 1)
        ),
        (3, 3, 2),
    ),
    "chunk to one": Case(
        lambda g: (lambda parts: g.read(*(g.call(operator.getitem, parts, i) for i in range(3))))(
            g.call(aten.chunk.default, g.layer(3), 3, 1)
        ),
        misses=("single element",),
    ),
    "overlapping slices": Case(
        lambda g: (lambda h: g.read(g.call(aten.slice.Tensor, h, 1, 0, 4), g.call(aten.narrow.default, h, 1, 2, 4)))(
            g.layer(6)
        ),
        (2, 2, 2),
    ),
    "slice with a step": Case(
        lambda g: g.read(g.call(aten.slice.Tensor, g.layer(6), 1, 0, 6, 2)), misses=("with a step",)
    ),
    "select": Case(
        lambda g: (lambda h: g.read(h, g.call(aten.unsqueeze.default, g.call(aten.select.int, h, 1, 2), 1)))(
            g.layer(6)
        ),
        (5,),
        ("single element",),
    ),
    "unbind": Case(
        lambda g: g.read(
            g.call(aten.unsqueeze.default, g.call(operator.getitem, g.call(aten.unbind.int, g.layer(4), 1), 1), 1)
        ),
        misses=("each place",),
    ),
    "divided and merged": Case(
        lambda g: (lambda h: g.read(g.call(aten.reshape.default, g.call(aten.permute.default, h, [0, 2, 1]), [-1, 6])))(
            g.call(aten.reshape.default, g.layer(6), [-1, 2, 3])
        ),
        (2, 3),
    ),
    "divided in two ways": Case(
        lambda g: (
            lambda h: g.read(g.call(aten.reshape.default, h, [-1, 2, 6]), g.call(aten.reshape.default, h, [-1, 3, 4]))
        )(g.layer(12)),
        (2,),
    ),
    "merged with the batch in two orders": Case(
        lambda g: g.read(
            g.call(
                aten.unsqueeze.default,
                g.call(
                    aten.add.Tensor,
                    g.call(aten.reshape.default, g.layer(4), [-1]),
                    g.call(aten.reshape.default, g.call(aten.permute.default, g.layer(4), [1, 0]), [-1]),
                ),
                1,
            )
        ),
        misses=("divided in different ways",),
    ),
    "merged with the batch in one order": Case(
        lambda g: g.read(
            g.call(
                aten.reshape.default,
                g.call(
                    aten.add.Tensor,
                    g.call(aten.reshape.default, g.layer(4), [-1]),
                    g.call(aten.reshape.default, g.layer(4), [-1]),
                ),
                [-1, 4],
            )
        ),
        (4,),
    ),
    "unflatten": Case(
        lambda g: g.read(
            g.call(aten.flatten.using_ints, g.call(aten.unflatten.int, g.layer(6), 1, [2, 3]), 1, 2),
        ),
        (2, 3),
    ),
    "expand": Case(
        lambda g: (
            lambda wide: g.read(g.call(aten.mul.Tensor, g.call(aten.expand.default, wide, [-1, 4, -1]), g.weight(4, 6)))
        )(g.call(aten.unsqueeze.default, g.layer(6), 1)),
        (6,),
    ),
    "expand_as": Case(
        lambda g: g.read(
            g.call(
                aten.expand_as.default,
                g.call(aten.unsqueeze.default, g.layer(6), 1),
                g.call(aten.stack.default, [g.layer(6), g.layer(6)], 1),
            )
        ),
        (6,),
    ),
    "repeat": Case(lambda g: g.read(g.call(aten.repeat.default, g.layer(3), [1, 2])), (3,)),
    "repeat of one": Case(
        lambda g: g.read(
            g.call(aten.mul.Tensor, g.call(aten.repeat.default, g.layer(1), [1, 4]), g.layer(4)),
        ),
        (4,),
    ),
    "repeat_interleave": Case(lambda g: g.read(g.call(aten.repeat_interleave.self_int, g.layer(3), 2, 1)), (3,)),
    "squeeze of two": Case(
        lambda g: g.read(g.call(aten.squeeze.dim, g.layer(2, g.layer(4)), 1)), (4,), ("one element",)
    ),
    "padded positions": Case(lambda g: g.read(g.call(aten.pad.default, lookup(g), [0, 0, 1, 2])), (4,)),
    "padded channels": Case(lambda g: g.read(g.call(aten.pad.default, g.layer(4), [0, 2])), misses=("pads the axis",)),
    "zeros": Case(lambda g: g.read(g.call(aten.add.Tensor, g.layer(4), g.call(aten.zeros.default, [4]))), (4,)),
    "size read": Case(
        lambda g: (lambda h: g.read(h, g.call(aten.mul.Tensor, h, g.call(aten.sym_size.int, h, 1))))(g.layer(4)),
        misses=("reads the size",),
    ),
}

PRODUCTS = {
    "heads": Case(heads, (6, 6, 6, 2, 4, 4)),
    "heads behind the batch": Case(merged_heads, (6, 2, 4), ("single element",)),
    "tied weights": Case(
        lambda g: (
            lambda w: g.read(
                g.call(aten.linear.default, g.call(aten.tanh.default, g.call(aten.linear.default, g.layer(4), w)), w)
            )
        )(g.weight(4, 4)),
        (4,),
    ),
    "transposed weight": Case(
        lambda g: g.read(g.call(aten.matmul.default, g.layer(4), g.call(aten.permute.default, g.weight(6, 4), [1, 0]))),
        (4, 6),
    ),
    "dot interaction": Case(
        lambda g: (lambda x: g.read(g.call(aten.bmm.default, x, g.call(aten.permute.default, x, [0, 2, 1]))))(
            g.call(aten.stack.default, [table_rows(g), table_rows(g), g.layer(4)], 1)
        ),
        (4,),
    ),
    "concatenated tables": Case(lambda g: g.read(g.call(aten.cat.default, [table_rows(g), table_rows(g)], 1)), (4, 4)),
    "experts as one einsum": Case(
        lambda g: g.read(
            g.call(
                aten.einsum.default,
                "be,beo->bo",
                [
                    g.call(aten.softmax.int, g.layer(3), 1),
                    g.call(aten.einsum.default, "bi,eio->beo", [g.layer(4), g.weight(3, 4, 6)]),
                ],
            )
        ),
        (4, 3, 6),
    ),
    "einsum without an arrow": Case(
        lambda g: g.read(g.call(aten.einsum.default, "bk,kn", [g.layer(4), g.weight(4, 6)])), (4, 6)
    ),
    "einsum with an ellipsis": Case(
        lambda g: g.read(g.call(aten.einsum.default, "...k,kn->...n", [g.layer(4), g.weight(4, 6)])),
        misses=("ellipsis",),
    ),
    "addmm": Case(lambda g: g.read(g.call(aten.addmm.default, g.weight(6), g.layer(4), g.weight(4, 6))), (4, 6)),
    "tensordot": Case(lambda g: g.read(g.call(aten.tensordot.default, lookup(g), g.weight(6, 4), [-1], [1])), (4, 6)),
    "tensordot of two axes": Case(
        lambda g: g.read(g.call(aten.tensordot.default, lookup(g), g.weight(4, 3, 6), [1, 2], [1, 0])), (4, 6)
    ),
    "bilinear": Case(
        lambda g: g.read(g.call(aten.bilinear.default, g.layer(3), g.layer(4), g.weight(6, 3, 4), g.weight(6))),
        (3, 4, 6),
    ),
    "convolution": Case(
        lambda g: g.read(
            g.call(
                aten.permute.default,
                g.call(
                    aten.conv1d.default,
                    g.call(aten.permute.default, lookup(g), [0, 2, 1]),
                    g.weight(6, 4, 2),
                    g.weight(6),
                ),
                [0, 2, 1],
            )
        ),
        (4, 6),
    ),
    "convolution in groups": Case(lambda g: grouped(g, 8, 6, 2), (4, 2, 4, 3)),
    "convolution of each channel": Case(lambda g: grouped(g, 4, 4, 4), (4, 4)),
    "convolution to several of each channel": Case(lambda g: grouped(g, 3, 6, 3), (4, 3, 2)),
    "convolution in groups to one": Case(lambda g: grouped(g, 6, 3, 3), (4, 3, 2)),
    "gru": Case(gru, (4, 3)),
    "gru of two layers": Case(lambda g: gru(g, layers=2), (4, 3)),
    "gru in both directions": Case(lambda g: gru(g, bidirectional=True), (4, 3)),
    "gru cell": Case(
        lambda g: g.read(
            g.call(
                aten.gru_cell.default, g.layer(4), g.layer(3), g.weight(9, 4), g.weight(9, 3), g.weight(9), g.weight(9)
            )
        ),
        (4, 3),
    ),
    "lstm cell": Case(
        lambda g: g.read(
            g.call(
                operator.getitem,
                g.call(
                    aten.lstm_cell.default,
                    g.layer(4),
                    [g.layer(3), g.layer(3)],
                    g.weight(12, 4),
                    g.weight(12, 3),
                    g.weight(12),
                    g.weight(12),
                ),
                0,
            )
        ),
        (4, 3),
    ),
}

ELEMENTWISE = {
    "cross layer": Case(
        lambda g: (lambda x0: g.read(g.call(aten.add.Tensor, g.call(aten.mul.Tensor, x0, g.layer(4, x0)), x0)))(
            g.layer(4)
        ),
        (4,),
    ),
    "row and column": Case(
        lambda g: g.read(
            g.call(
                aten.mul.Tensor,
                g.call(aten.unsqueeze.default, g.layer(3), 2),
                g.call(aten.unsqueeze.default, g.layer(4), 1),
            )
        ),
        (4,),
    ),
    "batch norm": Case(
        lambda g: g.read(
            g.call(
                aten.batch_norm.default,
                g.layer(4),
                g.weight(4),
                g.weight(4),
                g.constant(torch.rand(4)),
                g.constant(torch.rand(4) + 1),
                False,
                0.1,
                1e-5,
                False,
            )
        ),
        (4,),
    ),
    "layer norm": Case(
        lambda g: g.read(g.call(aten.layer_norm.default, g.layer(4), [4], g.weight(4), g.weight(4))), (4,)
    ),
    "group norm": Case(lambda g: g.read(g.call(aten.group_norm.default, g.layer(4), 2)), misses=("not followed",)),
    "prelu": Case(lambda g: g.read(g.call(aten.prelu.default, g.layer(4), g.weight(4))), (4,)),
    "glu": Case(lambda g: g.read(g.call(aten.glu.default, g.layer(8), 1)), (4,)),
    "sum over fields": Case(lambda g: g.read(g.call(aten.sum.dim_IntList, lookup(g), [1])), (4,)),
    "mean over channels": Case(
        lambda g: (lambda h: g.read(g.call(aten.mul.Tensor, h, g.call(aten.mean.dim, h, [1], True))))(g.layer(4)), (4,)
    ),
    "largest with its place": Case(
        lambda g: (lambda h: g.read(h, g.call(operator.getitem, g.call(aten.max.dim, h, 1, True), 0)))(g.layer(4)),
        misses=("other places",),
    ),
    "running sum": Case(lambda g: g.read(g.call(aten.cumsum.default, g.layer(4), 1)), misses=("other places",)),
    "running sum along positions": Case(lambda g: g.read(g.call(aten.cumsum.default, lookup(g), 1)), (4,)),
    "bag": Case(
        lambda g: g.read(
            g.call(
                operator.getitem,
                g.call(
                    aten.embedding_bag.default,
                    g.weight(9, 4),
                    g.call(aten.reshape.default, g.ids, [-1]),
                    g.call(aten.arange.start_step, 0, g.call(operator.mul, g.batch(), 3), 3),
                ),
                0,
            )
        ),
        (4,),
    ),
    "pairs by an index table": Case(
        lambda g: g.read(g.call(aten.index_select.default, g.layer(4), 1, g.constant(torch.tensor([0, 1, 1, 3, 2])))),
        (5,),
        ("other places",),
    ),
    "random": Case(
        lambda g: g.read(g.call(aten.bernoulli.default, g.call(aten.sigmoid.default, g.layer(4)))),
        misses=("not followed",),
    ),
}
