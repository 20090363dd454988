"""The steps random recommendation graphs are made of. Each takes values of rank 2, float32 [batch, w], and adds one such value."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from torch import fx

from recfx.testing.builder import GraphBuilder

_aten = torch.ops.aten
_MAX_WIDTH = 24
_TABLE_WIDTH = 2


class Pool:
    """The values made so far, and what steps need to make more.

    Args:
        builder: The graph.
        generator: Source of all weights.
        fields: Columns of the input `ids`.
    """

    def __init__(self, builder: GraphBuilder, generator: torch.Generator, fields: int) -> None:
        self.builder = builder
        self.generator = generator
        self.fields = fields
        self.values: list[fx.Node] = [builder.inputs["dense"]]
        self.tables: list[str] = []

    def call(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """Adds an operator."""
        return self.builder.call(target, *args, **kwargs)

    def keep(self, node: fx.Node) -> None:
        """Makes a value available to later steps."""
        self.values.append(node)

    def pick(self, draw: Any) -> fx.Node:
        """One of the values, the latest being the simplest."""
        node: fx.Node = draw(st.sampled_from(self.values[::-1]))
        return node

    def weight(self, *shape: int, positive: bool = False) -> fx.Node:
        """Fresh random state; in [0.1, 1.1] when it must be positive."""
        draw = (
            torch.rand(*shape, generator=self.generator) + 0.1
            if positive
            else torch.randn(*shape, generator=self.generator) / 2
        )
        name = f"weight_{len(list(self.builder.graph.find_nodes(op='get_attr')))}"
        return self.builder.state(name, torch.nn.Parameter(draw))

    def table(self, draw: Any) -> fx.Node:
        """A table [rows, 2]: a new one, one used before, or a copy of one used before."""
        kind = draw(st.sampled_from(["new", "tied", "copy"])) if self.tables else "new"
        if kind == "tied":
            name = draw(st.sampled_from(self.tables))
            return self.builder._reads[name]
        rows = draw(st.integers(1, 6))
        tensor = torch.randn(rows, _TABLE_WIDTH, generator=self.generator)
        if kind == "copy":
            source = draw(st.sampled_from(self.tables))
            tensor = self.builder._root.get_parameter(source).detach().clone()
        name = f"table_{len(self.tables)}"
        self.tables.append(name)
        return self.builder.state(name, torch.nn.Parameter(tensor))

    def column(self, draw: Any) -> fx.Node:
        """One column of the ids, int64 [batch]."""
        return self.call(_aten.select.int, self.builder.inputs["ids"], 1, draw(st.integers(0, self.fields - 1)))


def width(node: fx.Node) -> int:
    """The last size of a value."""
    return int(node.meta["val"].shape[-1])


def _lookup(pool: Pool, draw: Any) -> None:
    pool.keep(pool.call(_aten.embedding.default, pool.table(draw), pool.column(draw)))


def _pooled(pool: Pool, draw: Any) -> None:
    rows = pool.call(_aten.embedding.default, pool.table(draw), pool.builder.inputs["ids"])
    reduce = draw(st.sampled_from([_aten.sum.dim_IntList, _aten.mean.dim]))
    pool.keep(pool.call(reduce, rows, [1]))


def _bag(pool: Pool, draw: Any) -> None:
    ids = pool.builder.inputs["ids"]
    flat = pool.call(_aten.reshape.default, ids, [-1])
    count = pool.call(_aten.sym_numel.default, ids)
    offsets = pool.call(_aten.arange.start_step, 0, count, pool.fields, dtype=torch.int64)
    mode = draw(st.sampled_from([0, 1]))
    bag = pool.call(
        _aten.embedding_bag.padding_idx, pool.table(draw), flat, offsets, False, mode, False, None, False, None
    )
    pool.keep(pool.call(operator.getitem, bag, 0))


def _linear(pool: Pool, draw: Any) -> None:
    source, out = pool.pick(draw), draw(st.integers(1, 4))
    bias = pool.weight(out) if draw(st.booleans()) else None
    pool.keep(pool.call(_aten.linear.default, source, pool.weight(out, width(source)), bias))


def _activation(pool: Pool, draw: Any) -> None:
    choices = [_aten.relu.default, _aten.sigmoid.default, _aten.tanh.default, _aten.gelu.default]
    pool.keep(pool.call(draw(st.sampled_from(choices)), pool.pick(draw)))


def _dropout(pool: Pool, draw: Any) -> None:
    pool.keep(pool.call(_aten.dropout.default, pool.pick(draw), 0.5, False))


def _layer_norm(pool: Pool, draw: Any) -> None:
    source = pool.pick(draw)
    size = width(source)
    pool.keep(pool.call(_aten.layer_norm.default, source, [size], pool.weight(size), pool.weight(size), 1e-5))


def _batch_norm(pool: Pool, draw: Any) -> None:
    source = pool.pick(draw)
    size = width(source)
    state = (pool.weight(size), pool.weight(size), pool.weight(size), pool.weight(size, positive=True))
    pool.keep(pool.call(_aten.batch_norm.default, source, *state, False, 0.1, 1e-5, False))


def _concat(pool: Pool, draw: Any) -> None:
    parts = draw(st.lists(st.sampled_from(pool.values[::-1]), min_size=1, max_size=3))
    if sum(map(width, parts)) <= _MAX_WIDTH:
        pool.keep(pool.call(_aten.cat.default, parts, 1))


def _same_width(pool: Pool, draw: Any) -> tuple[fx.Node, fx.Node]:
    first = pool.pick(draw)
    partners = [v for v in pool.values[::-1] if width(v) == width(first)]
    return first, draw(st.sampled_from(partners))


def _elementwise(pool: Pool, draw: Any) -> None:
    pool.keep(
        pool.call(
            draw(st.sampled_from([_aten.add.Tensor, _aten.mul.Tensor, _aten.sub.Tensor])), *_same_width(pool, draw)
        )
    )


def _constant_arithmetic(pool: Pool, draw: Any) -> None:
    source = pool.pick(draw)
    target = draw(st.sampled_from([_aten.mul.Tensor, _aten.add.Tensor, _aten.sub.Tensor, _aten.div.Tensor]))
    number = draw(st.sampled_from([1, 2.0, 0.5, 1.0]))
    other = number if draw(st.booleans()) else pool.weight(width(source), positive=True)
    pool.keep(pool.call(target, source, other))


def _dot(pool: Pool, draw: Any) -> None:
    vectors = pool.call(_aten.stack.default, [*_same_width(pool, draw), pool.values[-1]][:2], 1)
    products = pool.call(_aten.bmm.default, vectors, pool.call(_aten.transpose.int, vectors, 1, 2))
    rows, columns = torch.tril_indices(2, 2)
    picks: list[Any] = [None, pool.builder.state("tril_rows", rows), pool.builder.state("tril_columns", columns)]
    pool.keep(pool.call(_aten.index.Tensor, products, picks))


def _factorization_machine(pool: Pool, draw: Any) -> None:
    vectors = pool.call(_aten.stack.default, list(_same_width(pool, draw)), 1)
    total = pool.call(_aten.sum.dim_IntList, vectors, [1])
    squares = pool.call(_aten.sum.dim_IntList, pool.call(_aten.mul.Tensor, vectors, vectors), [1])
    difference = pool.call(_aten.sub.Tensor, pool.call(_aten.mul.Tensor, total, total), squares)
    pool.keep(pool.call(_aten.mul.Tensor, difference, 0.5))


def _cross(pool: Pool, draw: Any) -> None:
    first, layer = _same_width(pool, draw)
    size = width(first)
    mixed = pool.call(_aten.linear.default, layer, pool.weight(size, size), pool.weight(size))
    pool.keep(pool.call(_aten.add.Tensor, pool.call(_aten.mul.Tensor, first, mixed), layer))


def _attention(pool: Pool, draw: Any) -> None:
    keys = pool.call(_aten.embedding.default, pool.table(draw), pool.builder.inputs["ids"])
    query = pool.call(_aten.linear.default, source := pool.pick(draw), pool.weight(_TABLE_WIDTH, width(source)), None)
    scores = pool.call(_aten.matmul.default, keys, pool.call(_aten.unsqueeze.default, query, 2))
    padded = pool.call(_aten.unsqueeze.default, pool.call(_aten.eq.Scalar, pool.builder.inputs["ids"], 0), 2)
    scores = pool.call(_aten.masked_fill.Scalar, scores, padded, -1e9)
    weights = pool.call(_aten.softmax.int, scores, 1)
    pool.keep(pool.call(_aten.sum.dim_IntList, pool.call(_aten.mul.Tensor, weights, keys), [1]))


def _gate(pool: Pool, draw: Any) -> None:
    source = pool.pick(draw)
    size, out = width(source), draw(st.integers(1, 3))
    experts = [pool.call(_aten.linear.default, source, pool.weight(out, size), pool.weight(out)) for _ in range(2)]
    gate = pool.call(_aten.softmax.int, pool.call(_aten.linear.default, source, pool.weight(2, size), None), 1)
    stacked = pool.call(_aten.stack.default, experts, 1)
    pool.keep(
        pool.call(
            _aten.sum.dim_IntList,
            pool.call(_aten.mul.Tensor, stacked, pool.call(_aten.unsqueeze.default, gate, 2)),
            [1],
        )
    )


def _no_op(pool: Pool, draw: Any) -> None:
    source = pool.pick(draw)
    size = width(source)
    forms: list[tuple[Any, tuple[Any, ...]]] = [
        (_aten.slice.Tensor, (source, 1, 0, 2**63 - 1)),
        (_aten.slice.Tensor, (source, 1, 0, size)),
        (_aten.to.dtype, (source, torch.float32)),
        (_aten.clone.default, (source,)),
        (_aten.reshape.default, (source, [-1, size])),
        (_aten.alias.default, (source,)),
        (_aten.cat.default, ([source], 1)),
    ]
    target, arguments = draw(st.sampled_from(forms))
    pool.keep(pool.call(target, *arguments))


def _repeat(pool: Pool, draw: Any) -> None:
    """The same expression twice, added up."""
    source = pool.pick(draw)
    twice = [pool.call(_aten.sigmoid.default, source) for _ in range(2)]
    pool.keep(pool.call(_aten.add.Tensor, *twice))


STEPS: dict[str, Callable[[Pool, Any], None]] = {
    "activation": _activation,
    "attention": _attention,
    "bag": _bag,
    "batch-norm": _batch_norm,
    "concat": _concat,
    "constant-arithmetic": _constant_arithmetic,
    "cross": _cross,
    "dot": _dot,
    "dropout": _dropout,
    "elementwise": _elementwise,
    "factorization-machine": _factorization_machine,
    "gate": _gate,
    "layer-norm": _layer_norm,
    "linear": _linear,
    "lookup": _lookup,
    "no-op": _no_op,
    "pooled": _pooled,
    "repeat": _repeat,
}
