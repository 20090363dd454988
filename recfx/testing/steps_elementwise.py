"""Steps of random graphs that work element by element."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torch import fx

from recfx.ir.op_sets import ADDITIONS, NEGATIONS, POOLINGS
from recfx.testing.pool import Pool, is_float, is_steady, sizes, width
from recfx.testing.step_table import operator_step

_aten = torch.ops.aten

#: Function of one value -> lists of its further arguments to choose from.
_UNARY: dict[Any, list[tuple[Any, ...]]] = {
    _aten.relu.default: [()],
    _aten.sigmoid.default: [()],
    _aten.tanh.default: [()],
    _aten.silu.default: [()],
    _aten.mish.default: [()],
    _aten.selu.default: [()],
    _aten.relu6.default: [()],
    _aten.hardswish.default: [()],
    _aten.hardsigmoid.default: [()],
    _aten.log_sigmoid.default: [()],
    _aten.erf.default: [()],
    _aten.neg.default: [()],
    _aten.abs.default: [()],
    _aten.elu.default: [(), (0.5,), (1.0,)],
    _aten.leaky_relu.default: [(), (0.2,), (0.0,), (1.0,)],
    _aten.hardtanh.default: [(), (-0.5, 0.5), (0.0, 1.0)],
    _aten.softplus.default: [(), (2.0, 20.0), (1, 1)],
    _aten.clamp.default: [(-1.0, 1.0), (0, None), (None, 0.5), (0.0, 1.0), (1.0, -1.0), (-0.5,)],
    _aten.clamp_min.default: [(0,), (0.0,), (-0.5,), (1,)],
    _aten.clamp_max.default: [(0,), (0.5,), (1.0,), (-1,)],
    _aten.dropout.default: [(0.5, False), (0.0, False)],
    _aten.nan_to_num.default: [(), (1.0,), (0.0, 1.0, -1.0)],
}

#: Functions that are not continuous or grow fast; their inputs do not depend on the order of sums.
_STEADY_UNARY: dict[Any, list[tuple[Any, ...]]] = {
    _aten.exp.default: [()],
    _aten.expm1.default: [()],
    _aten.log.default: [()],
    _aten.log1p.default: [()],
    _aten.sqrt.default: [()],
    _aten.rsqrt.default: [()],
    _aten.reciprocal.default: [()],
    _aten.sin.default: [()],
    _aten.cos.default: [()],
    _aten.sign.default: [()],
    _aten.floor.default: [()],
    _aten.round.default: [()],
    _aten.pow.Tensor_Scalar: [(2,), (2.0,), (3,), (0.5,), (1,), (0,), (-1,), (-2.0,)],
    _aten.remainder.Scalar: [(1.0,), (2,), (-0.5,)],
}


def _any(pool: Pool, draw: Any, **options: Any) -> fx.Node:
    return pool.pick(draw, pool.rank(draw, 2, 2, 2, 1, 3), **options)


def _unary(pool: Pool, draw: Any, target: Any) -> None:
    pool.keep(pool.call(target, _any(pool, draw), *draw(st.sampled_from(_UNARY[target]))))


def _steady_unary(pool: Pool, draw: Any, target: Any) -> None:
    pool.keep(pool.call(target, _any(pool, draw, steady=True), *draw(st.sampled_from(_STEADY_UNARY[target]))))


def _gelu(pool: Pool, draw: Any, target: Any) -> None:
    keywords = draw(st.sampled_from([{}, {"approximate": "none"}, {"approximate": "tanh"}]))
    pool.keep(pool.call(target, _any(pool, draw), **keywords))


def _square(pool: Pool, draw: Any, target: Any) -> None:
    pool.keep(pool.call(target, _any(pool, draw, degree=2)))


def _prelu(pool: Pool, draw: Any, target: Any) -> None:
    source = pool.pick(draw)
    pool.keep(pool.call(target, source, pool.weight(draw(st.sampled_from([1, width(source)])), draw=draw)))


def _broadcast(pool: Pool, draw: Any, first: fx.Node, degree: int = 8) -> Any:
    """A partner of a value: one of its shape, a weight that broadcasts, a column [..., 1], the value itself, or a number."""
    kinds = ["same", "same", "number", "number", "number", "vector", "row", "scalar-state", "column", "narrow"]
    kind = "number" if pool.numbers and draw(st.integers(0, 2)) == 2 else draw(st.sampled_from(kinds))
    if kind == "same":
        return pool.partner(draw, first, degree=degree)
    if kind == "number":
        return pool.number(draw)
    if kind == "scalar-state":
        return pool.weight(draw=draw)
    if kind in ("vector", "row") or first.meta["val"].ndim == 1:
        size = width(first) if first.meta["val"].ndim > 1 else 1
        return pool.weight(*([1, size] if kind == "row" and first.meta["val"].ndim > 1 else [size]), draw=draw)
    if kind == "column":
        reduce = draw(st.sampled_from([*POOLINGS, _aten.amax.default]))
        return pool.call(reduce, first, [draw(st.integers(1, first.meta["val"].ndim - 1))], True)
    if kind == "narrow":
        fits = [v for v in pool.values if is_float(v) and pool.degree(v) <= degree and _broadcasts(v, first)]
        return pool.choose(draw, fits or [first])
    return pool.partner(draw, first, degree=degree)


def _broadcasts(node: fx.Node, first: fx.Node) -> bool:
    """Whether a value has the rank of another, and a size of one where their sizes differ."""
    pairs = list(zip(sizes(node), sizes(first), strict=False))
    return (
        len(sizes(node)) == len(sizes(first))
        and all(a == b or a == "1" for a, b in pairs)
        and sizes(node) != sizes(first)
    )


def _arithmetic(pool: Pool, draw: Any, target: Any) -> None:
    if draw(st.integers(0, 7)) == 7:
        return pool.keep(pool.call(target, pool.builder.inputs["ids"], pool.number(draw)))
    first = _any(pool, draw, degree=2 if target is _aten.mul.Tensor else 8)
    second = _broadcast(pool, draw, first, 2 if target is _aten.mul.Tensor else 8)
    swap = isinstance(second, fx.Node) and draw(st.booleans())
    keywords = {}
    if target is not _aten.mul.Tensor and draw(st.booleans()):
        keywords = {"alpha": draw(st.sampled_from([2, 0.5, -1, 1, 0]))}
    pool.keep(pool.call(target, *((second, first) if swap else (first, second)), **keywords))


def _rsub(pool: Pool, draw: Any, target: Any) -> None:
    keywords = {"alpha": 2} if draw(st.booleans()) else {}
    pool.keep(pool.call(target, _any(pool, draw), pool.number(draw), **keywords))


def _divide(pool: Pool, draw: Any, target: Any) -> None:
    """A quotient by positive state, a number, or an input.

    An input may be 0, and 0 / 0 differs from a rounding error / 0: the dividend must not depend on rounding.
    """
    kind = draw(st.sampled_from(["state", "number", "input", "integers"]))
    first = _any(pool, draw, steady=kind == "input")
    if kind == "integers":
        ids = pool.builder.inputs["ids"]
        other = draw(st.sampled_from([1, 2, 2.0, 3, ids]))
        return pool.keep(pool.call(target, ids, other))
    partners = [v for v in pool.values if is_float(v) and is_steady(v) and sizes(v) == sizes(first)]
    if kind == "input" and partners:
        return pool.keep(pool.call(target, first, pool.choose(draw, partners)))
    size = width(first) if first.meta["val"].ndim > 1 else 1
    number = draw(st.sampled_from([1, 2.0, 0.5, -1.0, 3, True]))
    return pool.keep(pool.call(target, first, number if kind == "number" else pool.weight(size, positive=True)))


def _rounding_division(pool: Pool, draw: Any, target: Any) -> None:
    first = draw(st.sampled_from([pool.builder.inputs["ids"], _any(pool, draw, steady=True)]))
    number = draw(st.sampled_from([2, 3, -2]))
    pool.keep(pool.call(target, first, number, rounding_mode=draw(st.sampled_from(["floor", "trunc"]))))


def _extreme(pool: Pool, draw: Any, target: Any) -> None:
    first = _any(pool, draw)
    pool.keep(pool.call(target, first, pool.partner(draw, first)))


def _compare(pool: Pool, draw: Any, target: Any) -> None:
    ids = draw(st.booleans())
    first = pool.builder.inputs["ids"] if ids else pool.pick(draw, steady=True)
    if str(target).endswith("Tensor"):
        second: Any = first if ids else pool.builder.inputs["dense"]
        if sizes(second) != sizes(first):
            second = first
    else:
        second = draw(st.sampled_from([0, 1, 2, -1, 0.5, -2]))
    pool.keep(pool.call(target, first, second))


def _logic(pool: Pool, draw: Any, target: Any) -> None:
    first = pool.mask(draw)
    fits = [v for v in pool.values if v.meta["val"].dtype is torch.bool and sizes(v) == sizes(first)]
    one = target in NEGATIONS
    pool.keep(pool.call(target, first) if one else pool.call(target, first, pool.choose(draw, fits or [first])))


def _where(pool: Pool, draw: Any, target: Any) -> None:
    first = pool.pick(draw)
    fits = [v for v in pool.values if v.meta["val"].dtype is torch.bool and sizes(v) == sizes(first)]
    mask = pool.choose(draw, fits) if fits else pool.call(_aten.gt.Scalar, _steady_like(pool, first), 0)
    if target is _aten.where.self:
        other = pool.partner(draw, first)
        pool.keep(pool.call(target, mask, *((other, first) if draw(st.booleans()) else (first, other))))
    elif target is _aten.where.ScalarOther:
        pool.keep(pool.call(target, mask, first, draw(st.sampled_from([0.0, 1.0, -1e9]))))
    else:
        fill = draw(st.sampled_from([0, 0.0, -1e9, float("-inf"), 1.0]))
        pool.keep(pool.call(target, first, mask, fill))


def _steady_like(pool: Pool, first: fx.Node) -> fx.Node:
    """A value with the sizes of another, computed from inputs alone."""
    return pool.call(
        _aten.expand.default, pool.call(_aten.slice.Tensor, pool.builder.inputs["dense"], 1, 0, 1), [-1, width(first)]
    )


def _cast(pool: Pool, draw: Any, target: Any) -> None:
    kind = draw(st.sampled_from(["float", "double", "half", "ids", "mask"]))
    if kind in ("ids", "mask"):
        source = pool.builder.inputs["ids"] if kind == "ids" else pool.mask(draw)
        return pool.keep(pool.call(target, source, draw(st.sampled_from([torch.float32, torch.float64, torch.int32]))))
    source = _any(pool, draw, steady=kind == "half")
    if kind == "float":
        return pool.keep(pool.call(target, source, torch.float32))
    wide = torch.float64 if kind == "double" else torch.bfloat16
    cast = pool.call(target, source, wide)
    pool.keep(cast)
    return pool.keep(pool.call(target, cast, torch.float32))


for _target in _UNARY:
    operator_step(_target, _unary)
for _target in _STEADY_UNARY:
    operator_step(_target, _steady_unary)
for _target in (*ADDITIONS, _aten.mul.Tensor):
    operator_step(_target, _arithmetic)
for _target in (_aten.maximum.default, _aten.minimum.default):
    operator_step(_target, _extreme)
for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    operator_step(getattr(_aten, _name).Scalar, _compare)
    operator_step(getattr(_aten, _name).Tensor, _compare)
for _target in (_aten.logical_and.default, _aten.logical_or.default, _aten.bitwise_and.Tensor, _aten.bitwise_or.Tensor):
    operator_step(_target, _logic)
for _target in NEGATIONS:
    operator_step(_target, _logic)
for _target in (_aten.where.self, _aten.where.ScalarOther, _aten.masked_fill.Scalar):
    operator_step(_target, _where)
operator_step(_aten.gelu.default, _gelu)
operator_step(_aten.square.default, _square)
operator_step(_aten.prelu.default, _prelu)
operator_step(_aten.rsub.Scalar, _rsub)
operator_step(_aten.div.Tensor, _divide)
operator_step(_aten.div.Tensor_mode, _rounding_division)
operator_step(_aten.to.dtype, _cast)
