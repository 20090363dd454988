"""Steps of random graphs that look up rows of tables."""

from __future__ import annotations

import operator
from typing import Any

import torch
from hypothesis import strategies as st
from torch import fx

from recfx.ir.op_sets import POOLINGS
from recfx.testing.pool import Pool, width
from recfx.testing.step_table import operator_step, step

_aten = torch.ops.aten


def _lookup(pool: Pool, draw: Any, target: Any) -> None:
    ids = pool.column(draw) if draw(st.booleans()) else pool.builder.inputs["ids"]
    pool.keep(pool.call(target, pool.table(draw), ids, *draw(st.sampled_from([(), (), (0,), (-1,)]))))


@step("pooled", _aten.embedding.default, _aten.sum.dim_IntList, _aten.mean.dim)
def _pooled(pool: Pool, draw: Any) -> None:
    rows = pool.call(_aten.embedding.default, pool.table(draw), pool.builder.inputs["ids"])
    reduce = draw(st.sampled_from(POOLINGS))
    pool.keep(pool.call(reduce, rows, [draw(st.sampled_from([1, -2]))], *draw(st.sampled_from([(), (False,)]))))


@step("scaled-lookup", _aten.embedding.default, _aten.mul.Tensor, _aten.add.Tensor, _aten.linear.default)
def _scaled_lookup(pool: Pool, draw: Any) -> None:
    """Two lookups of one table, one of them behind arithmetic or a linear that could be folded into the table."""
    table = pool.table(draw)
    rows = pool.call(_aten.embedding.default, table, pool.column(draw))
    kind = draw(st.sampled_from(["times a number", "plus a vector", "linear"]))
    if kind == "times a number":
        pool.keep(pool.call(_aten.mul.Tensor, rows, draw(st.sampled_from([2.0, 0.5, 3, -1.0]))))
    elif kind == "plus a vector":
        pool.keep(pool.call(_aten.add.Tensor, rows, pool.weight(width(rows), draw=draw)))
    else:
        pool.keep(pool.call(_aten.linear.default, rows, pool.weight(2, width(rows), draw=draw), None))
    if draw(st.booleans()):
        pool.keep(pool.call(_aten.embedding.default, table, pool.column(draw)))


@step("masked-pool", _aten.embedding.default, _aten.ne.Scalar, _aten.gt.Scalar, _aten.sum.dim_IntList)
def _masked_pool(pool: Pool, draw: Any) -> None:
    """The sum or mean of the rows whose ids pass a comparison."""
    ids = pool.builder.inputs["ids"]
    compare = draw(st.sampled_from([_aten.ne.Scalar, _aten.gt.Scalar, _aten.ge.Scalar]))
    mask = pool.call(_aten.to.dtype, pool.call(compare, ids, draw(st.integers(0, 2))), torch.float32)
    rows = pool.call(_aten.embedding.default, pool.table(draw), ids)
    total = pool.call(
        _aten.sum.dim_IntList, pool.call(_aten.mul.Tensor, rows, pool.call(_aten.unsqueeze.default, mask, 2)), [1]
    )
    if draw(st.booleans()):
        count = pool.call(_aten.clamp_min.default, pool.call(_aten.sum.dim_IntList, mask, [1], True), 1)
        total = pool.call(_aten.div.Tensor, total, count)
    pool.keep(total)


@step("hashed-lookup", _aten.embedding.default, _aten.remainder.Scalar, _aten.add.Tensor)
def _hashed_lookup(pool: Pool, draw: Any) -> None:
    """Ids shifted and taken modulo the rows of the table, as hashing tricks do."""
    table = pool.table(draw)
    rows = int(table.meta["val"].shape[0])
    shifted = pool.call(_aten.add.Tensor, pool.builder.inputs["ids"], draw(st.integers(0, 3)))
    pool.keep(pool.call(_aten.embedding.default, table, pool.call(_aten.remainder.Scalar, shifted, rows)))


def _bag(pool: Pool, draw: Any, target: Any) -> None:
    """Bags of fixed length: the offsets are 0, L, 2 L, ..., as `nn.EmbeddingBag` makes them of ids [B, L]."""
    ids = pool.builder.inputs["ids"]
    flat = pool.call(_aten.reshape.default, ids, [-1])
    last = draw(st.booleans())
    count = pool.call(_aten.sym_numel.default, ids)
    end = pool.call(operator.add, count, 1) if last else count
    offsets = pool.call(_aten.arange.start_step, 0, end, pool.fields, dtype=torch.int64)
    weights = pool.pick(draw) if draw(st.booleans()) else None
    if weights is not None:
        first = pool.call(_aten.slice.Tensor, weights, 1, 0, 1)
        weights = pool.call(_aten.reshape.default, pool.call(_aten.repeat.default, first, [1, pool.fields]), [-1])
    _pool_bags(pool, draw, target, flat, offsets, weights, last)


def _pool_bags(
    pool: Pool, draw: Any, target: Any, ids: fx.Node, offsets: fx.Node, weights: fx.Node | None, last: bool
) -> None:
    table = pool.table(draw)
    rows = int(table.meta["val"].shape[0])
    mode = 0 if weights is not None else draw(st.sampled_from([0, 1, 2]))
    padding = draw(st.sampled_from([None, 0, rows - 1, -1]))
    extra = [last] if target is _aten.embedding_bag.default else [last, padding]
    bag = pool.call(target, table, ids, offsets, False, mode, False, weights, *extra)
    pool.keep(pool.call(operator.getitem, bag, 0))


@step("jagged-bag", _aten.embedding_bag.padding_idx)
def _jagged_bag(pool: Pool, draw: Any) -> None:
    """Bags of any length, some of them empty, with offsets as an input."""
    inputs = pool.builder.inputs
    if "offsets" in inputs:
        weights = inputs["bag_weights"] if draw(st.booleans()) else None
        last = str(inputs["offsets"].meta["val"].shape[0]) != str(inputs["dense"].meta["val"].shape[0])
        _pool_bags(pool, draw, _aten.embedding_bag.padding_idx, inputs["bag_ids"], inputs["offsets"], weights, last)
    else:
        _bag(pool, draw, _aten.embedding_bag.padding_idx)


operator_step(_aten.embedding.default, _lookup)
operator_step(_aten.embedding_bag.padding_idx, _bag)
operator_step(_aten.embedding_bag.default, _bag)
