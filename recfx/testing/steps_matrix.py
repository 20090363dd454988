"""Steps of random graphs with products of matrices, norms and attention."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st

from recfx.testing.pool import Pool, is_float, sizes, width
from recfx.testing.step_table import operator_step

_aten = torch.ops.aten


def _out(draw: Any, size: int) -> int:
    """The number of columns of a product, often that of its input, so that a transposed weight fits as well."""
    columns: int = draw(st.sampled_from([size, size, 1, 2, 3, 4]))
    return columns


def _linear(pool: Pool, draw: Any, target: Any) -> None:
    source = pool.pick(draw, pool.rank(draw, 2, 2, 2, 3))
    size = width(source)
    known = [w for w in pool.builder.graph.find_nodes(op="get_attr") if is_float(w) and sizes(w)[1:] == [str(size)]]
    tied = bool(known) and draw(st.booleans())
    weight = draw(st.sampled_from(known)) if tied else pool.weight(_out(draw, size), size, draw=draw)
    out = int(weight.meta["val"].shape[0])
    bias = draw(st.sampled_from(["bias", "bias", "none", "missing"]))
    extra: list[Any] = [] if bias == "missing" else [pool.weight(out, draw=draw) if bias == "bias" else None]
    pool.keep(pool.call(target, source, weight, *extra))


def _product(pool: Pool, draw: Any, target: Any) -> None:
    source = pool.pick(draw, pool.rank(draw, 2, 3) if target is _aten.matmul.default else 2)
    size = width(source)
    weight = pool.weight(size, _out(draw, size), draw=draw)
    if draw(st.booleans()):
        weight = pool.call(_aten.t.default, pool.weight(_out(draw, size), size, draw=draw))
    pool.keep(pool.call(target, source, weight))


def _scaled_product(pool: Pool, draw: Any, target: Any) -> None:
    source = pool.pick(draw)
    size = width(source)
    out = _out(draw, size)
    keywords = draw(st.sampled_from([{}, {}, {"beta": 2}, {"alpha": 0.5}, {"beta": 0, "alpha": 2}]))
    pool.keep(pool.call(target, pool.weight(out, draw=draw), source, pool.weight(size, out, draw=draw), **keywords))


def _batched(pool: Pool, draw: Any, target: Any) -> None:
    source = pool.pick(draw, 3, degree=2)
    turned = pool.call(_aten.transpose.int, pool.partner(draw, source, degree=2), 1, 2)
    operands = [source, turned] if draw(st.booleans()) else [turned, source]
    if target is _aten.einsum.default:
        return pool.keep(pool.call(target, draw(st.sampled_from(["bij,bjk->bik", "bij,bjk->bki"])), operands))
    if target is _aten.baddbmm.default:
        keywords = draw(st.sampled_from([{}, {"beta": 2}, {"alpha": 0.5}]))
        return pool.keep(pool.call(target, pool.weight(1, 1, 1), *operands, **keywords))
    pool.keep(pool.call(target, *operands))


def _attention(pool: Pool, draw: Any, target: Any) -> None:
    source = pool.call(_aten.unsqueeze.default, pool.pick(draw, 3, degree=2), 1)
    causal: list[Any] = draw(st.sampled_from([[], [None, 0.0, True], [None, 0.0, False]]))
    out = pool.call(target, source, source, source, *causal, **draw(st.sampled_from([{}, {"scale": 0.3}])))
    pool.keep(pool.call(_aten.squeeze.dim, out, 1))


def _layer_norm(pool: Pool, draw: Any, target: Any) -> None:
    source = pool.pick(draw, pool.rank(draw, 2, 3))
    size = width(source)
    affine = draw(st.sampled_from(["both", "none", "weight"]))
    weight = None if affine == "none" else pool.weight(size)
    bias = pool.weight(size) if affine == "both" else None
    pool.keep(pool.call(target, source, [size], weight, bias, draw(st.sampled_from([1e-5, 1e-3, 0.1]))))


def _batch_norm(pool: Pool, draw: Any, target: Any) -> None:
    source = pool.pick(draw)
    size = width(source)
    affine = draw(st.booleans())
    weight, bias = (pool.weight(size), pool.weight(size)) if affine else (None, None)
    state = (weight, bias, pool.weight(size), pool.weight(size, positive=True))
    pool.keep(pool.call(target, source, *state, False, 0.1, draw(st.sampled_from([1e-5, 1e-3, 0.1])), False))


operator_step(_aten.linear.default, _linear)
for _target in (_aten.mm.default, _aten.matmul.default):
    operator_step(_target, _product)
operator_step(_aten.addmm.default, _scaled_product)
for _target in (_aten.bmm.default, _aten.einsum.default, _aten.baddbmm.default):
    operator_step(_target, _batched)
operator_step(_aten.scaled_dot_product_attention.default, _attention)
operator_step(_aten.layer_norm.default, _layer_norm)
operator_step(_aten.batch_norm.default, _batch_norm)
