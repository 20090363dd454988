"""Functions of one tensor, element by element.

OpenVINO's Exp, ReLU, Clamp and HSigmoid turn NaN into a number. Its Maximum and Minimum may do so as well, as they exchange their operands
when they are fused with other operators. The rules choose by comparisons, which give torch's results.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from recfx.targets.openvino.rules.registry import Unsupported, rule

_aten = torch.ops.aten
_FLOAT = torch.float32


def keep_nan(b: Any, x: Any, y: Any) -> Any:
    """`y` with the NaN of `x`."""
    return b.op.select(b.op.is_nan(x), x, y)


def exponential(b: Any, x: Any) -> Any:
    """exp(x)."""
    return keep_nan(b, x, b.op.exp(x))


def rectified(b: Any, x: Any) -> Any:
    """max(x, 0), or NaN."""
    zero = b.number(0.0)
    return b.op.select(b.op.less(x, zero), zero, x)


def _limited(b: Any, x: Any, low: Any, high: Any, dtype: torch.dtype) -> Any:
    x = made = b.cast(x, dtype)
    for limit, name in ((low, "maximum"), (high, "minimum")):
        if limit is None:
            continue
        if not isinstance(limit, bool | int | float):
            raise Unsupported("limits that are tensors")
        if math.isnan(limit) or (dtype is not _FLOAT and abs(limit) >= 2**31):
            raise Unsupported(f"the limit {limit}")
        made = getattr(b.op, name)(b.number(limit, dtype), made)
    return keep_nan(b, x, made) if dtype is _FLOAT else made


@rule(_aten.relu.default)
def _relu(b: Any, self: Any) -> Any:
    return rectified(b, self)


@rule(_aten.relu6.default)
def _relu6(b: Any, self: Any) -> Any:
    return _limited(b, self, 0.0, 6.0, _FLOAT)


@rule(_aten.hardtanh.default)
def _hardtanh(b: Any, self: Any, min_val: float = -1.0, max_val: float = 1.0) -> Any:
    return _limited(b, self, min_val, max_val, _FLOAT)


@rule(_aten.clamp.default, integers=True)
def _clamp(b: Any, self: Any, min: Any = None, max: Any = None) -> Any:
    return _limited(b, self, min, max, b.result_dtype())


@rule(_aten.clamp_min.default, integers=True)
def _clamp_min(b: Any, self: Any, min: Any) -> Any:
    return _limited(b, self, min, None, b.result_dtype())


@rule(_aten.clamp_max.default, integers=True)
def _clamp_max(b: Any, self: Any, max: Any) -> Any:
    return _limited(b, self, None, max, b.result_dtype())


@rule(_aten.hardsigmoid.default)
def _hardsigmoid(b: Any, self: Any) -> Any:
    return b.op.divide(_limited(b, b.op.add(self, b.number(3.0)), 0.0, 6.0, _FLOAT), b.number(6.0))


@rule(_aten.hardswish.default)
def _hardswish(b: Any, self: Any) -> Any:
    return b.op.hswish(self)


@rule(_aten.exp.default)
def _exp(b: Any, self: Any) -> Any:
    return exponential(b, b.cast(self, _FLOAT))


@rule(_aten.gelu.default)
def _gelu(b: Any, self: Any, *, approximate: str = "none") -> Any:
    return b.op.gelu(self, "TANH" if approximate == "tanh" else "ERF")


@rule(_aten.silu.default)
def _silu(b: Any, self: Any) -> Any:
    return b.op.swish(self)


@rule(_aten.elu.default)
def _elu(b: Any, self: Any, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Any:
    if input_scale != 1.0:
        raise Unsupported("an input scale")
    made = b.op.elu(self, float(alpha))
    return made if scale == 1.0 else b.op.multiply(made, b.number(float(scale)))


@rule(_aten.selu.default)
def _selu(b: Any, self: Any) -> Any:
    return _elu(b, self, 1.6732632423543772848170429916717, 1.0507009873554804934193349852946)


@rule(_aten.celu.default)
def _celu(b: Any, self: Any, alpha: float = 1.0) -> Any:
    if alpha != 1.0:
        raise Unsupported("an alpha other than 1")
    return b.op.elu(self, 1.0)


@rule(_aten.leaky_relu.default)
def leaky_relu(b: Any, self: Any, negative_slope: float = 0.01) -> Any:
    """x where it is positive, otherwise `negative_slope * x`."""
    return b.op.prelu(self, b.numbers([float(negative_slope)]))


@rule(_aten.prelu.default)
def _prelu(b: Any, self: Any, weight: Any) -> Any:
    count = b.node.args[1].meta["val"].numel()
    rank = b.node.args[0].meta["val"].ndim
    slope = b.op.reshape(weight, b.integers([1] if count == 1 else [1, count, *[1] * (rank - 2)]), False)
    positive = b.op.less(b.number(0.0), self)
    return b.op.select(positive, self, b.op.multiply(self, slope))


@rule(_aten.threshold.default)
def _threshold(b: Any, self: Any, threshold: float, value: float) -> Any:
    return b.op.select(b.op.less_equal(self, b.number(float(threshold))), b.number(float(value)), self)


@rule(_aten.softplus.default)
def _softplus(b: Any, self: Any, beta: float = 1, threshold: float = 20) -> Any:
    if beta == 1 and threshold == 20:
        return b.op.softplus(self)
    scaled = b.op.multiply(self, b.number(float(beta)))
    soft = b.op.divide(b.op.softplus(scaled), b.number(float(beta)))
    return b.op.select(b.op.less(b.number(float(threshold)), scaled), self, soft)


@rule(_aten.log_sigmoid.default)
def _log_sigmoid(b: Any, self: Any) -> Any:
    return b.op.negative(b.op.softplus(b.op.negative(self)))


@rule(_aten.sign.default)
def _sign(b: Any, self: Any) -> Any:
    zero, one = b.number(0.0), b.number(1.0)
    below = b.op.select(b.op.less(self, zero), b.number(-1.0), zero)
    return b.op.select(b.op.less(zero, self), one, below)


@rule(_aten.round.default)
def _round(b: Any, self: Any) -> Any:
    return b.op.round(self, "half_to_even")


@rule(_aten.square.default)
def _square(b: Any, self: Any) -> Any:
    return b.op.multiply(self, self)


@rule(_aten.rsqrt.default)
def _rsqrt(b: Any, self: Any) -> Any:
    return b.op.divide(b.number(1.0), b.op.sqrt(b.cast(self, _FLOAT)))


@rule(_aten.reciprocal.default)
def _reciprocal(b: Any, self: Any) -> Any:
    return b.op.divide(b.number(1.0), b.cast(self, _FLOAT))


@rule(_aten.nan_to_num.default)
def _nan_to_num(b: Any, self: Any, nan: Any = None, posinf: Any = None, neginf: Any = None) -> Any:
    largest = torch.finfo(_FLOAT).max
    made = b.op.select(b.op.is_nan(self), b.number(0.0 if nan is None else float(nan)), self)
    for sign, given in ((1.0, posinf), (-1.0, neginf)):
        infinite = b.op.equal(made, b.number(sign * math.inf))
        made = b.op.select(infinite, b.number(sign * largest if given is None else float(given)), made)
    return made


@rule(_aten.isfinite.default)
def _isfinite(b: Any, self: Any) -> Any:
    return b.op.logical_not(b.op.logical_or(b.op.is_nan(self), b.op.is_inf(self)))


@rule(_aten.pow.Tensor_Scalar)
def _power(b: Any, self: Any, exponent: Any) -> Any:
    x = b.cast(self, _FLOAT)
    square = b.op.multiply(x, x)
    known = {1: x, 2: square, 3: b.op.multiply(square, x), 0.5: b.op.sqrt(x)}
    known |= {-1: b.op.divide(b.number(1.0), x), -2: b.op.divide(b.number(1.0), square)}
    if exponent not in known:
        raise Unsupported(f"the exponent {exponent}")
    return known[exponent]


def _same(name: str) -> Any:
    """The rule of an operator that OpenVINO has."""

    def build(b: Any, self: Any) -> Any:
        return getattr(b.op, name)(b.cast(self, _FLOAT))

    return build


for _target, _name in (
    *((_aten.sigmoid.default, "sigmoid"), (_aten.tanh.default, "tanh"), (_aten.mish.default, "mish")),
    *((_aten.erf.default, "erf"), (_aten.neg.default, "negative"), (_aten.abs.default, "abs")),
    *((_aten.log.default, "log"), (_aten.sqrt.default, "sqrt"), (_aten.floor.default, "floor")),
    *((_aten.ceil.default, "ceil"), (_aten.isnan.default, "is_nan"), (_aten.isinf.default, "is_inf")),
):
    rule(_target)(_same(_name))
