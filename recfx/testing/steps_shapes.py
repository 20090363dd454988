"""Steps of random graphs that move values, and that reduce them."""

from __future__ import annotations

import operator
from typing import Any

import torch
from hypothesis import strategies as st
from torch import fx

from recfx.ir.op_sets import COPIES, EXPANSIONS, FILLS_LIKE, JOINS, POOLINGS, SLICES
from recfx.testing.pool import Pool, is_float, sizes, width
from recfx.testing.step_table import operator_step, step

_aten = torch.ops.aten
_MAX_WIDTH = 24
_END = 2**63 - 1


def _axis(draw: Any, node: fx.Node, *, last: bool = False) -> int:
    """An axis other than the batch's, counted from either end."""
    rank = node.meta["val"].ndim
    axis: int = rank - 1 if last else draw(st.integers(1, rank - 1))
    return axis - rank if draw(st.booleans()) else axis


def _wide(pool: Pool, draw: Any) -> fx.Node:
    """A value of rank 2 or 3."""
    return pool.pick(draw, pool.rank(draw, 2, 2, 3))


def _slice(pool: Pool, draw: Any, target: Any) -> None:
    source = _wide(pool, draw)
    axis = _axis(draw, source)
    size = int(source.meta["val"].shape[axis])
    start = draw(st.integers(0, size - 1))
    stop = draw(st.sampled_from([size, _END, *range(start + 1, size)]))
    extra = draw(st.sampled_from([(), (), (2,), (1,)]))
    if target is _aten.narrow.default:
        return pool.keep(pool.call(target, source, axis, start, min(stop, size) - start))
    if target is _aten.select.int:
        return pool.keep(pool.call(target, source, axis, draw(st.sampled_from([start, start - size]))))
    return pool.keep(pool.call(target, source, axis, start, stop, *extra))


def _pieces(pool: Pool, draw: Any, target: Any) -> None:
    source = _wide(pool, draw)
    axis = _axis(draw, source)
    size = int(source.meta["val"].shape[axis])
    first = draw(st.integers(1, size))
    argument: list[Any] = {
        _aten.split.Tensor: [first],
        _aten.chunk.default: [min(2, size)],
        _aten.split_with_sizes.default: [[first, size - first] if first < size else [size]],
        _aten.unbind.int: [],
    }[target]
    pieces = pool.call(target, source, *argument, axis)
    for index in range(min(len(pieces.meta["val"]), 3)):
        pool.keep(pool.call(operator.getitem, pieces, index))


def _join(pool: Pool, draw: Any, target: Any) -> None:
    first = _wide(pool, draw)
    if target is _aten.stack.default:
        parts = [first, *(pool.partner(draw, first) for _ in range(draw(st.integers(0, 2))))]
        axis = draw(st.sampled_from([1, -1, *range(1, first.meta["val"].ndim + 1)]))
        return pool.keep(pool.call(target, parts, axis)) if first.meta["val"].ndim == 2 else None
    last = first.meta["val"].ndim - 1
    fits = [
        v for v in pool.values if is_float(v) and sizes(v)[:-1] == sizes(first)[:-1] and v.meta["val"].ndim == last + 1
    ]
    parts = [first, *(pool.choose(draw, fits) for _ in range(draw(st.integers(0, 2))))]
    if sum(map(width, parts)) <= _MAX_WIDTH:
        pool.keep(pool.call(target, parts, draw(st.sampled_from([last, -1]))))


def _reorder(pool: Pool, draw: Any, target: Any) -> None:
    source = pool.pick(draw, 3)
    if target is _aten.transpose.int:
        axes = draw(st.sampled_from([(1, 2), (-1, -2), (2, 1), (1, -1)]))
        return pool.keep(pool.call(target, source, *axes))
    pool.keep(pool.call(target, source, draw(st.sampled_from([[0, 2, 1], [0, 1, 2], [0, -1, 1]]))))


def _flip(pool: Pool, draw: Any, target: Any) -> None:
    source = _wide(pool, draw)
    pool.keep(pool.call(target, source, [_axis(draw, source)]))


def _resize(pool: Pool, draw: Any, target: Any) -> None:
    if target is _aten.unsqueeze.default:
        return pool.keep(pool.call(target, pool.pick(draw), draw(st.sampled_from([1, 2, -1]))))
    if target is _aten.squeeze.dim:
        summed = pool.call(_aten.sum.dim_IntList, pool.pick(draw), [1], True)
        return pool.keep(pool.call(target, summed, draw(st.sampled_from([1, -1]))))
    if target is _aten.flatten.using_ints:
        return pool.keep(pool.call(target, pool.pick(draw, 3), 1, draw(st.sampled_from([2, -1]))))
    source = pool.pick(draw, pool.rank(draw, 2, 3))
    if target is _aten.view.default and not source.meta["val"].is_contiguous():
        source = pool.call(_aten.contiguous.default, source)  # view may refuse other strides
    size = width(source)
    tail = [int(s) for s in source.meta["val"].shape[1:]]
    count = tail[0] * (tail[1] if len(tail) == 2 else 1)
    pool.keep(pool.call(target, source, draw(st.sampled_from([[-1, *tail], [-1, count], [-1, count // size, size]]))))


def _expand(pool: Pool, draw: Any, target: Any) -> None:
    if target is _aten.expand_as.default:
        other = pool.pick(draw, 3)
        return pool.keep(pool.call(target, pool.call(_aten.slice.Tensor, other, 1, 0, 1), other))
    source = pool.call(_aten.unsqueeze.default, pool.pick(draw), 1)
    count = draw(st.integers(1, 3))
    pool.keep(pool.call(target, source, [-1, count, -1] if target is _aten.expand.default else [1, count, 1]))


def _copy(pool: Pool, draw: Any, target: Any) -> None:
    pool.keep(pool.call(target, pool.pick(draw, pool.rank(draw, 1, 2, 3))))


def _gather(pool: Pool, draw: Any, target: Any) -> None:
    source = pool.pick(draw)
    size = width(source)
    if target is _aten.index_select.default:
        chosen = torch.tensor(draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=4)))
        return pool.keep(pool.call(target, source, draw(st.sampled_from([1, -1])), _constant(pool, chosen)))
    ids = pool.call(_aten.remainder.Scalar, pool.builder.inputs["ids"], size)
    pool.keep(pool.call(target, source, draw(st.sampled_from([1, -1])), ids))


def _constant(pool: Pool, tensor: torch.Tensor) -> fx.Node:
    return pool.builder.state(f"index_{len(list(pool.builder.graph.find_nodes(op='get_attr')))}", tensor)


def _pad(pool: Pool, draw: Any, target: Any) -> None:
    pool.keep(pool.call(target, pool.pick(draw), [draw(st.integers(0, 1)), 1], draw(st.sampled_from([0.0, 1.0]))))


def _reduce(pool: Pool, draw: Any, target: Any) -> None:
    source = _wide(pool, draw)
    axes = [_axis(draw, source)]
    if source.meta["val"].ndim == 3 and draw(st.booleans()):
        axes = [1, 2]
    keep = draw(st.sampled_from([(), (False,), (True,)]))
    if target is _aten.var.correction:
        keyword = {
            "correction": draw(st.sampled_from([0, 1])) if source.meta["val"].shape[axes[0]] != 1 else 0,
            **({"keepdim": True} if draw(st.booleans()) else {}),
        }
        return pool.keep(pool.call(target, source, axes, **keyword))
    if target is _aten.linalg_vector_norm.default:
        return pool.keep(pool.call(target, source, draw(st.sampled_from([2, 1, 2.0])), axes, *keep))
    pool.keep(pool.call(target, source, axes, *keep))


def _normalize(pool: Pool, draw: Any, target: Any) -> None:
    source = _wide(pool, draw)
    pool.keep(pool.call(target, source, _axis(draw, source)))


def _truth(pool: Pool, draw: Any, target: Any) -> None:
    pool.keep(pool.call(target, pool.mask(draw), draw(st.sampled_from([1, -1])), draw(st.booleans())))


def _largest(pool: Pool, draw: Any, target: Any) -> None:
    """Positions of the largest values, of inputs alone, since rounding may change the order of nearly equal values."""
    source = pool.pick(draw, steady=True)
    if target is _aten.argmax.default:
        return pool.keep(pool.call(target, source, draw(st.sampled_from([1, -1])), draw(st.booleans())))
    pair = pool.call(target, source, *([1] if target is _aten.topk.default else [1, draw(st.booleans())]))
    pool.keep(pool.call(operator.getitem, pair, 0))


@step("filled", _aten.full.default, _aten.zeros_like.default, _aten.ones_like.default, _aten.full_like.default)
def _filled(pool: Pool, draw: Any) -> None:
    """Constant tensors that are combined with a value, some of equal value and another type."""
    source = pool.pick(draw)
    target = draw(st.sampled_from([_aten.full.default, *FILLS_LIKE]))
    if target is _aten.full.default:
        for number in draw(st.lists(st.sampled_from([1, True, 1.0, 0, False, 0.0, 2]), min_size=1, max_size=3)):
            pool.keep(pool.call(_aten.div.Tensor, pool.call(target, [1, width(source)], number), 2))
        return
    fill = [draw(st.sampled_from([1, 0.5, -1.0]))] if target is _aten.full_like.default else []
    pool.keep(pool.call(_aten.add.Tensor, source, pool.call(target, source, *fill)))


@step("position", _aten.arange.default, _aten.arange.start_step, _aten.embedding.default)
def _position(pool: Pool, draw: Any) -> None:
    """Positions of the fields, as floating-point numbers added to a value."""
    start, stride = draw(st.integers(0, 2)), draw(st.integers(1, 3))
    source = pool.pick(draw)
    count = width(source)
    positions = pool.call(_aten.arange.start_step, start, start + count * stride, stride, dtype=torch.float32)
    pool.keep(pool.call(_aten.mul.Tensor, source, positions))


for _target in (*SLICES, _aten.select.int):
    operator_step(_target, _slice)
for _target in (_aten.split.Tensor, _aten.chunk.default, _aten.split_with_sizes.default, _aten.unbind.int):
    operator_step(_target, _pieces)
for _target in JOINS:
    operator_step(_target, _join)
for _target in (_aten.transpose.int, _aten.permute.default):
    operator_step(_target, _reorder)
for _target in (
    *(_aten.unsqueeze.default, _aten.squeeze.dim, _aten.flatten.using_ints),
    *(_aten.reshape.default, _aten.view.default),
):
    operator_step(_target, _resize)
for _target in EXPANSIONS:
    operator_step(_target, _expand)
for _target in COPIES:
    operator_step(_target, _copy)
for _target in (_aten.index_select.default, _aten.gather.default):
    operator_step(_target, _gather)
for _target in (
    *(*POOLINGS, _aten.amax.default, _aten.amin.default),
    *(_aten.var.correction, _aten.logsumexp.default, _aten.linalg_vector_norm.default),
):
    operator_step(_target, _reduce)
for _target in (_aten.softmax.int, _aten.log_softmax.int, _aten.cumsum.default):
    operator_step(_target, _normalize)
for _target in (_aten.any.dim, _aten.all.dim):
    operator_step(_target, _truth)
for _target in (_aten.argmax.default, _aten.topk.default, _aten.max.dim):
    operator_step(_target, _largest)
operator_step(_aten.flip.default, _flip)
operator_step(_aten.constant_pad_nd.default, _pad)
