"""Steps of random graphs that add several operators at once: interactions, towers, and patterns that passes simplify."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st

from recfx.testing.pool import Pool, width
from recfx.testing.step_table import step

_aten = torch.ops.aten


@step("dot", _aten.stack.default, _aten.bmm.default, _aten.index.Tensor)
def _dot(pool: Pool, draw: Any) -> None:
    first = pool.pick(draw, degree=2)
    vectors = pool.call(_aten.stack.default, [first, pool.partner(draw, first, degree=2)], 1)
    products = pool.call(_aten.bmm.default, vectors, pool.call(_aten.transpose.int, vectors, 1, 2))
    rows, columns = torch.tril_indices(2, 2, draw(st.sampled_from([0, -1])))
    mark = len(pool.builder.graph.nodes)
    picks: list[Any] = [None, pool.builder.state(f"rows_{mark}", rows), pool.builder.state(f"columns_{mark}", columns)]
    pool.keep(pool.call(_aten.index.Tensor, products, picks))


@step("factorization-machine", _aten.stack.default, _aten.sum.dim_IntList, _aten.mul.Tensor, _aten.sub.Tensor)
def _factorization_machine(pool: Pool, draw: Any) -> None:
    first = pool.pick(draw, degree=2)
    vectors = pool.call(_aten.stack.default, [first, pool.partner(draw, first, degree=2)], 1)
    total = pool.call(_aten.sum.dim_IntList, vectors, [1])
    squares = pool.call(_aten.sum.dim_IntList, pool.call(_aten.mul.Tensor, vectors, vectors), [1])
    difference = pool.call(_aten.sub.Tensor, pool.call(_aten.mul.Tensor, total, total), squares)
    pool.keep(pool.call(_aten.mul.Tensor, difference, 0.5))


@step("cross", _aten.linear.default, _aten.mul.Tensor, _aten.add.Tensor)
def _cross(pool: Pool, draw: Any) -> None:
    first = pool.pick(draw, degree=2)
    layer = pool.partner(draw, first, degree=2)
    size = width(first)
    inner = layer
    if draw(st.booleans()):
        inner = pool.call(_aten.linear.default, layer, pool.weight(2, size), None)
    mixed = pool.call(_aten.linear.default, inner, pool.weight(size, width(inner), draw=draw), pool.weight(size))
    keywords = draw(st.sampled_from([{}, {}, {"alpha": 2}]))
    pool.keep(pool.call(_aten.add.Tensor, pool.call(_aten.mul.Tensor, first, mixed), layer, **keywords))


@step("attention", _aten.matmul.default, _aten.masked_fill.Scalar, _aten.softmax.int, _aten.sum.dim_IntList)
def _attention(pool: Pool, draw: Any) -> None:
    keys = pool.call(_aten.embedding.default, pool.table(draw), ids := pool.builder.inputs["ids"])
    query = pool.call(_aten.linear.default, source := pool.pick(draw), pool.weight(width(keys), width(source)), None)
    scores = pool.call(_aten.matmul.default, keys, pool.call(_aten.unsqueeze.default, query, 2))
    padded = pool.call(_aten.unsqueeze.default, pool.call(_aten.eq.Scalar, ids, 0), 2)
    scores = pool.call(_aten.masked_fill.Scalar, scores, padded, draw(st.sampled_from([-1e9, float("-inf")])))
    weights = pool.call(_aten.softmax.int, scores, draw(st.sampled_from([1, -2])))
    pool.keep(pool.call(_aten.sum.dim_IntList, pool.call(_aten.mul.Tensor, weights, keys), [1]))


@step("gate", _aten.linear.default, _aten.softmax.int, _aten.stack.default, _aten.sum.dim_IntList)
def _gate(pool: Pool, draw: Any) -> None:
    source = pool.pick(draw, degree=2)
    size, out = width(source), draw(st.integers(1, 3))
    experts = [pool.call(_aten.linear.default, source, pool.weight(out, size), pool.weight(out)) for _ in range(2)]
    gate = pool.call(_aten.softmax.int, pool.call(_aten.linear.default, source, pool.weight(2, size), None), 1)
    weighted = pool.call(
        _aten.mul.Tensor, pool.call(_aten.stack.default, experts, 1), pool.call(_aten.unsqueeze.default, gate, 2)
    )
    pool.keep(pool.call(_aten.sum.dim_IntList, weighted, [1]))


@step("no-op", _aten.slice.Tensor, _aten.to.dtype, _aten.clone.default, _aten.reshape.default, _aten.mul.Tensor)
def _no_op(pool: Pool, draw: Any) -> None:
    source = pool.pick(draw)
    size = width(source)
    forms: list[tuple[Any, tuple[Any, ...]]] = [
        (_aten.slice.Tensor, (source, 1, 0, 2**63 - 1)),
        (_aten.slice.Tensor, (source, -1, 0, size)),
        (_aten.to.dtype, (source, torch.float32)),
        (_aten.clone.default, (source,)),
        (_aten.reshape.default, (source, [-1, size])),
        (_aten.alias.default, (source,)),
        (_aten.cat.default, ([source], 1)),
        (_aten.mul.Tensor, (source, 1)),
        (_aten.div.Tensor, (source, 1)),
        (_aten.sub.Tensor, (source, 0)),
    ]
    target, arguments = draw(st.sampled_from(forms))
    pool.keep(pool.call(target, *arguments))


@step("flipped-and-back", _aten.transpose.int, _aten.t.default, _aten.permute.default)
def _flipped_and_back(pool: Pool, draw: Any) -> None:
    """An operator on the transpose [w, B], which is then transposed back."""
    turned = pool.call(_aten.transpose.int, pool.pick(draw), 0, 1)
    turned = pool.call(draw(st.sampled_from([_aten.relu.default, _aten.neg.default])), turned)
    back: list[tuple[Any, tuple[Any, ...]]] = [
        (_aten.transpose.int, (0, 1)),
        (_aten.transpose.int, (-1, -2)),
        (_aten.t.default, ()),
        (_aten.permute.default, ([1, 0],)),
    ]
    target, axes = draw(st.sampled_from(back))
    pool.keep(pool.call(target, turned, *axes))


@step("repeat", _aten.sigmoid.default, _aten.add.Tensor)
def _repeat(pool: Pool, draw: Any) -> None:
    """The same expression twice, added up."""
    source = pool.pick(draw)
    twice = [pool.call(_aten.sigmoid.default, source) for _ in range(2)]
    pool.keep(pool.call(_aten.add.Tensor, *twice))
