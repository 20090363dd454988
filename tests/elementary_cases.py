"""The whole table of element-wise functions: `elementwise_cases`, elementary functions, and activations of several operations."""

from __future__ import annotations

from typing import Any

import elementwise_cases
import torch
from elementwise_cases import Binary, Unary
from torch.nn import functional

_aten = torch.ops.aten

#: Functions of one tensor that torch provides under the operator's name.
_NAMED = (
    "log1p expm1 sign sgn sin cos tan atan asin acos sinh cosh asinh acosh atanh log2 log10 exp2 floor ceil round trunc fix frac logit",
    "mish relu6 selu hardsigmoid hardswish hardshrink nan_to_num",
)


def _named(name: str) -> Unary:
    return Unary(getattr(functional, name, None) or getattr(torch, name))


UNARY: dict[Any, list[Unary]] = {
    **elementwise_cases.UNARY,
    **{getattr(_aten, name).default: [_named(name)] for names in _NAMED for name in names.split()},
    _aten.special_expm1.default: [Unary(torch.special.expm1)],
    _aten.isfinite.default: [Unary(lambda x: torch.isfinite(x).float())],
    _aten.isnan.default: [Unary(lambda x: torch.isnan(x).float())],
    _aten.isinf.default: [Unary(lambda x: torch.isinf(x).float())],
    _aten.signbit.default: [Unary(lambda x: torch.signbit(x).float())],
    _aten.log_sigmoid.default: [Unary(functional.logsigmoid)],
    _aten.softplus.default: [Unary(functional.softplus), Unary(lambda x: functional.softplus(x, 0.5, 10.0))],
    _aten.elu.default: [Unary(functional.elu), Unary(lambda x: functional.elu(x, 0.5))],
    _aten.celu.default: [Unary(functional.celu)],
    _aten.threshold.default: [Unary(lambda x: functional.threshold(x, 0.5, -3.0))],
    _aten.clamp_max.default: [Unary(lambda x: torch.clamp_max(x, 0.25))],
    _aten.pow.Scalar: [Unary(lambda x: torch.pow(2.0, x))],
    _aten.__and__.Scalar: [Unary(lambda x: ((x > 0) & True).float())],
    _aten.__or__.Scalar: [Unary(lambda x: ((x > 0) | False).float())],
    _aten.bitwise_and.Scalar: [Unary(lambda x: torch.bitwise_and(x > 0, True).float())],
    _aten.bitwise_or.Scalar: [Unary(lambda x: torch.bitwise_or(x > 0, True).float())],
    _aten.__xor__.Scalar: [Unary(lambda x: ((x > 0) ^ True).float())],
    _aten.bitwise_xor.Scalar: [Unary(lambda x: torch.bitwise_xor(x > 0, True).float())],
}


def _unsigned(*functions: Any) -> list[Binary]:
    return [Binary(function, signed_zeros=False) for function in functions]


BINARY: dict[Any, list[Binary]] = {
    **elementwise_cases.BINARY,
    _aten.copysign.Tensor: [Binary(torch.copysign)],
    _aten.max.other: _unsigned(torch.max),
    _aten.min.other: _unsigned(torch.min),
    _aten.true_divide.Tensor: [Binary(torch.true_divide)],
    _aten.clamp.Tensor: _unsigned(lambda a, b: torch.clamp(a, b, b * 2)),
    _aten.clamp_min.Tensor: _unsigned(lambda a, b: torch.clamp_min(a, b)),
    _aten.clamp_max.Tensor: _unsigned(lambda a, b: torch.clamp_max(a, b)),
    _aten.__xor__.Tensor: [Binary(lambda a, b: ((a > 0) ^ (b > 0)).float())],
    _aten.bitwise_xor.Tensor: [Binary(lambda a, b: torch.bitwise_xor(a > 0, b > 0).float())],
    _aten.logical_xor.default: [Binary(lambda a, b: torch.logical_xor(a > 0, b > 0).float())],
}

#: Operators with their own tables in tests/targets: folds, layouts, norms, inexact functions of two tensors, sums whose
#: relative error has no bound, and quotients for which torch itself returns NaN if they are large.
OTHERS = elementwise_cases.OTHERS | {
    "_log_softmax", "addcdiv", "addcmul", "addmm", "adjoint", "all", "any", "arctan2", "argmax", "argmin", "atan2",
    "avg_pool1d", "avg_pool2d", "baddbmm", "batch_norm", "broadcast_to", "concat", "concatenate", "constant_pad_nd", "conv2d",
    "cosine_similarity", "count_nonzero", "cumprod", "diagonal", "div", "flip", "floor_divide", "fmax", "fmin", "fmod", "glu",
    "gru", "hypot", "lerp", "log_softmax", "logaddexp", "logsumexp", "lstm", "max", "max_pool1d", "max_pool2d", "min",
    "moveaxis", "movedim", "mT", "narrow", "numpy_T", "pad", "positive", "pow", "prod", "reshape_as", "rms_norm", "rnn_relu",
    "rnn_tanh", "roll", "softshrink", "std", "std_mean", "swapaxes", "swapdims", "to", "type_as", "unfold", "var", "var_mean",
    "view_as", "xlogy",
}  # fmt: skip
