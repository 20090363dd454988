"""Functions of one operand, and conversions of type."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch

from recfx.ir.op_sets import COPIES
from recfx.onnx.rule import Call, rule
from recfx.onnx.types import WHOLE, Untranslated

_aten = torch.ops.aten


def _simple(kind: str) -> Callable[[Call], str]:
    def apply(call: Call) -> str:
        return call.graph.op(kind, call.as_type(call["self"], call.out.dtype))

    return apply


_SIMPLE = {
    "abs": "Abs", "neg": "Neg", "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "reciprocal": "Reciprocal", "erf": "Erf",
    "special_erf": "Erf", "sigmoid": "Sigmoid", "special_expit": "Sigmoid", "tanh": "Tanh", "sin": "Sin", "cos": "Cos",
    "tan": "Tan", "asin": "Asin", "acos": "Acos", "atan": "Atan", "sinh": "Sinh", "cosh": "Cosh", "asinh": "Asinh",
    "acosh": "Acosh", "atanh": "Atanh", "selu": "Selu", "negative": "Neg", "absolute": "Abs",
}  # fmt: skip
for _name, _kind in _SIMPLE.items():
    rule(getattr(_aten, _name).default)(_simple(_kind))


def _rounding(kind: str) -> Callable[[Call], str]:
    def apply(call: Call) -> str:
        return call.tensor("self") if call.out.dtype in WHOLE else call.graph.op(kind, call.tensor("self"))

    return apply


for _name, _kind in (("floor", "Floor"), ("ceil", "Ceil"), ("round", "Round")):
    rule(getattr(_aten, _name).default)(_rounding(_kind))


@rule(_aten.trunc.default, _aten.fix.default)
def trunc(call: Call) -> str:
    """The numbers rounded towards zero."""
    value, graph = call.tensor("self"), call.graph
    if call.out.dtype in WHOLE:
        return value
    return graph.op("Mul", graph.op("Sign", value), graph.op("Floor", graph.op("Abs", value)))


@rule(_aten.relu.default)
def relu(call: Call) -> str:
    """The numbers, at least zero."""
    if call.out.dtype in WHOLE:
        return call.graph.op("Max", call.tensor("self"), call.graph.scalar(0, call.out.dtype))
    return call.graph.op("Relu", call.tensor("self"))


@rule(_aten.relu6.default)
def relu6(call: Call) -> str:
    """The numbers between 0 and 6."""
    low, high = (call.graph.scalar(bound, call.out.dtype) for bound in (0, 6))
    return call.graph.op("Min", call.graph.op("Max", call.tensor("self"), low), high)


@rule(_aten.hardtanh.default)
def hardtanh(call: Call) -> str:
    """The numbers within two bounds."""
    low, high = (call.as_type(call[name], call.out.dtype) for name in ("min_val", "max_val"))
    return call.graph.op("Min", call.graph.op("Max", call.tensor("self"), low), high)


@rule(_aten.square.default)
def square(call: Call) -> str:
    """The squares."""
    return call.graph.op("Mul", call.tensor("self"), call.tensor("self"))


@rule(_aten.rsqrt.default)
def rsqrt(call: Call) -> str:
    """One over the square roots."""
    return call.graph.op("Reciprocal", call.graph.op("Sqrt", call.as_type(call["self"], call.out.dtype)))


@rule(_aten.sign.default, _aten.sgn.default)
def sign(call: Call) -> str:
    """-1, 0 or 1; torch gives 0 for NaN."""
    value, dtype = call.tensor("self"), call.out.dtype
    made = call.graph.op("Sign", value)
    if dtype in WHOLE:
        return made
    return call.graph.op("Where", call.graph.op("IsNaN", value), call.graph.scalar(0, dtype), made)


@rule(_aten.log2.default, _aten.log10.default)
def log_of_base(call: Call) -> str:
    """Logarithms of base 2 or 10."""
    base = 2.0 if "log2" in str(call.node.target) else 10.0
    made = call.graph.op("Log", call.as_type(call["self"], call.out.dtype))
    return call.graph.op("Mul", made, call.graph.scalar(1 / math.log(base), call.out.dtype))


@rule(_aten.log1p.default)
def log1p(call: Call) -> str:
    """log(1 + x), with the correction that keeps small x exact: log(u) * (x / (u - 1)) for u = 1 + x."""
    graph, dtype = call.graph, call.out.dtype
    x, one = call.as_type(call["self"], dtype), graph.scalar(1, dtype)
    u = graph.op("Add", x, one)
    plain = graph.op("Log", u)
    lost = graph.op("Equal", u, one)
    beyond = graph.op("Equal", u, graph.scalar(math.inf, dtype))
    rest = graph.op("Where", lost, one, graph.op("Sub", u, one))
    corrected = graph.op("Mul", plain, graph.op("Div", x, rest))
    return graph.op("Where", lost, x, graph.op("Where", beyond, plain, corrected))


@rule(_aten.exp2.default)
def exp2(call: Call) -> str:
    """Powers of two."""
    return call.graph.op("Pow", call.graph.scalar(2, call.out.dtype), call.as_type(call["self"], call.out.dtype))


@rule(_aten.gelu.default)
def gelu(call: Call) -> str:
    """GELU, exact or by tanh."""
    return gelu_of(call, call.tensor("self"), call["approximate"])


@functools.cache
def _gelu_of_infinity_is_nan() -> bool:
    """Whether torch's exact GELU gives NaN for infinity, as its vectorised kernels do."""
    return bool(torch.nn.functional.gelu(torch.full((64,), math.inf)).isnan().all())


def gelu_of(call: Call, value: str, approximate: str) -> str:
    """GELU, exact or by tanh, with torch's result for infinity."""
    made = call.graph.op("Gelu", value, approximate=approximate)
    if approximate == "none" and _gelu_of_infinity_is_nan():
        made = call.graph.op(
            "Add", made, call.graph.op("Sub", value, value)
        )  # the difference is 0, or NaN for infinities
    return made


def silu_of(call: Call, value: str) -> str:
    """x * sigmoid(x)."""
    return call.graph.op("Mul", value, call.graph.op("Sigmoid", value))


@rule(_aten.silu.default)
def silu(call: Call) -> str:
    """x * sigmoid(x)."""
    return silu_of(call, call.tensor("self"))


@rule(_aten.leaky_relu.default)
def leaky_relu(call: Call) -> str:
    """x, or a fraction of negative x."""
    return call.graph.op("LeakyRelu", call.tensor("self"), alpha=float(call["negative_slope"]))


@rule(_aten.elu.default)
def elu(call: Call) -> str:
    """`scale * (x if x > 0 else alpha * (exp(input_scale * x) - 1))`."""
    if call["scale"] != 1 or call["input_scale"] != 1:
        raise Untranslated("ELU with a scale")
    return call.graph.op("Elu", call.tensor("self"), alpha=float(call["alpha"]))


@rule(_aten.celu.default)
def celu(call: Call) -> str:
    """CELU."""
    return call.graph.op("Celu", call.tensor("self"), alpha=float(call["alpha"]))


@rule(_aten.hardsigmoid.default)
def hardsigmoid(call: Call) -> str:
    """(x + 3) / 6 between 0 and 1."""
    graph, dtype = call.graph, call.out.dtype
    made = graph.op("Add", call.tensor("self"), graph.scalar(3, dtype))
    bounded = graph.op("Min", graph.op("Max", made, graph.scalar(0, dtype)), graph.scalar(6, dtype))
    return graph.op("Div", bounded, graph.scalar(6, dtype))


@rule(_aten.hardswish.default)
def hardswish(call: Call) -> str:
    """x * (x + 3) / 6, with the second factor between 0 and 1."""
    graph, dtype = call.graph, call.out.dtype
    x = call.tensor("self")
    bounded = graph.op("Max", graph.op("Add", x, graph.scalar(3, dtype)), graph.scalar(0, dtype))
    bounded = graph.op("Min", bounded, graph.scalar(6, dtype))
    return graph.op("Div", graph.op("Mul", x, bounded), graph.scalar(6, dtype))


@rule(_aten.softplus.default)
def softplus(call: Call) -> str:
    """log(1 + exp(beta x)) / beta, and x itself above a threshold."""
    graph, dtype, x = call.graph, call.out.dtype, call.tensor("self")
    beta = call["beta"]
    inner = x if beta == 1 else graph.op("Mul", x, graph.scalar(beta, dtype))
    made = graph.op("Softplus", inner)
    made = made if beta == 1 else graph.op("Div", made, graph.scalar(beta, dtype))
    return graph.op("Where", graph.op("Greater", inner, graph.scalar(call["threshold"], dtype)), x, made)


@rule(_aten.mish.default)
def mish(call: Call) -> str:
    """x * tanh(softplus(x))."""
    x = call.tensor("self")
    return call.graph.op("Mul", x, call.graph.op("Tanh", call.graph.op("Softplus", x)))


@rule(_aten.log_sigmoid.default)
def log_sigmoid(call: Call) -> str:
    """-softplus(-x)."""
    return call.graph.op("Neg", call.graph.op("Softplus", call.graph.op("Neg", call.tensor("self"))))


@rule(_aten.threshold.default)
def threshold(call: Call) -> str:
    """A number where x is at most the threshold; NaN stays."""
    graph, dtype, x = call.graph, call.out.dtype, call.tensor("self")
    low = graph.op("LessOrEqual", x, graph.scalar(call["threshold"], dtype))
    return graph.op("Where", low, graph.scalar(call["value"], dtype), x)


@rule(_aten.prelu.default, _aten._prelu_kernel.default)
def prelu(call: Call) -> str:
    """x, or a slope of its channel times negative x."""
    x, slope, graph = call.fake("self"), call.tensor("weight"), call.graph
    count = call.fake("weight").shape[0] if call.fake("weight").ndim else 1
    if call.fake("weight").ndim <= 1:
        sizes = [1] * x.ndim
        if x.ndim > 1:
            sizes[1] = int(count)
        slope = graph.op("Reshape", slope, graph.whole(*sizes))
    return graph.op("PRelu", call.tensor("self"), slope)


@rule(
    _aten.to.dtype,
    _aten._to_copy.default,
    _aten.to.dtype_layout,
    _aten.to.device,
    _aten.type_as.default,
    _aten.to.other,
)
def to(call: Call) -> str:
    """A conversion of type. torch makes truth values of numbers that are not zero; NaN counts as true."""
    source, wanted = call.fake("self").dtype, call.out.dtype
    if source.is_floating_point and wanted in WHOLE:
        return call.cast(call.tensor("self"), source, wanted)
    if wanted is torch.bool and source is not torch.bool:
        zero = call.graph.scalar(0, source)
        return call.graph.op("Not", call.graph.op("Equal", call.tensor("self"), zero))
    return call.cast(call.tensor("self"), source, wanted)


def _same(call: Call) -> str:
    name = call.node.target._schema.arguments[0].name  # type: ignore[union-attr]
    return call.tensor(name)


_SAME: tuple[Any, ...] = (
    *(
        *COPIES,
        _aten.positive.default,
        _aten.detach_.default,
        _aten.lift_fresh_copy.default,
        _aten.resolve_conj.default,
        _aten.resolve_neg.default,
        _aten.lift_fresh.default,
    ),
)
rule(*_SAME)(_same)


@rule(
    _aten.dropout.default,
    _aten.feature_dropout.default,
    _aten.alpha_dropout.default,
    _aten.feature_alpha_dropout.default,
)
def dropout(call: Call) -> str:
    """Dropout outside of training does nothing."""
    if call["train"]:
        raise Untranslated("dropout in training")
    return call.tensor("input")
