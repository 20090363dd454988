"""Cases of functions that work element by element."""

from __future__ import annotations

import math

import torch
from conformance_kit import Input
from conformance_operands import (
    COLUMN,
    CUBE,
    CUBE_FLAG,
    FLAG,
    ID_ROWS,
    NO_BATCH,
    SHORT_IDS,
    X,
    Y,
    case,
    numbers,
    positive,
    weights,
)

_aten = torch.ops.aten

# Functions of one tensor.
for _name in (
    *(
        [
            "relu",
            "sigmoid",
            "tanh",
            "silu",
            "mish",
            "selu",
            "relu6",
            "hardswish",
            "hardsigmoid",
            "log_sigmoid",
            "softplus",
            "erf",
            "neg",
            "abs",
            "elu",
            "hardtanh",
        ]
    ),
    *(
        [
            "exp",
            "expm1",
            "log",
            "log1p",
            "log2",
            "sqrt",
            "rsqrt",
            "reciprocal",
            "sin",
            "cos",
            "sign",
            "floor",
            "ceil",
            "round",
            "square",
            "logit",
            "gelu",
            "nan_to_num",
        ]
    ),
    *(
        [
            "isnan",
            "isinf",
            "isfinite",
            "logical_not",
            "clone",
            "alias",
            "detach",
            "contiguous",
            "lift_fresh_copy",
            "zeros_like",
            "ones_like",
        ]
    ),
    *(["softsign", "trunc", "exp2", "sinh", "cosh", "asinh", "atan", "celu", "softshrink", "hardshrink"]),
):
    if hasattr(_aten, _name):
        case(getattr(_aten, _name).default, X)
case(_aten.relu.default, CUBE)
case(_aten.sigmoid.default, Input("half", ("batch", 6), torch.bfloat16))
case(_aten.gelu.default, CUBE, approximate="tanh")
case(_aten.elu.default, X, 0.5)
case(_aten.leaky_relu.default, X, 0.2)
case(_aten.leaky_relu.default, CUBE)
case(_aten.softplus.default, X, 2.0, 20.0)
case(_aten.threshold.default, X, 0.5, -3.0)
case(_aten.dropout.default, X, 0.5, False)
case(_aten.prelu.default, X, positive(1))
case(_aten.prelu.default, CUBE, positive(4))
for _limits in ((-1.0, 1.0), (0, None), (None, 0.5), (0.0, 1.0), (1.0, -1.0)):
    case(_aten.clamp.default, X, *_limits)
case(_aten.clamp.default, ID_ROWS, 0, 2)
case(_aten.clamp_min.default, X, 0.1)
case(_aten.clamp_max.default, X, 0.1)
for _power in (2, 2.0, 3, 0.5, 1, 0, -1, -2.0, 1.5):
    case(_aten.pow.Tensor_Scalar, X, _power)
case(_aten.pow.Scalar, 2.0, X)
case(_aten.pow.Tensor_Tensor, X, Y)
case(_aten.remainder.Scalar, X, 1.0)
case(_aten.remainder.Scalar, ID_ROWS, 3)
case(_aten.remainder.Tensor, X, Y)
case(_aten.fmod.Scalar, X, 1.5)
for _dtype in (torch.float32, torch.int64, torch.int32, torch.bool, torch.float64, torch.bfloat16, torch.float16):
    case(_aten.to.dtype, X, _dtype)
    case(_aten.to.dtype, ID_ROWS, _dtype)
    case(_aten.to.dtype, FLAG, _dtype)
case(_aten._to_copy.default, ID_ROWS, dtype=torch.float32)

# Functions of two tensors, and of a tensor and a number.
for _name in ["add", "sub", "mul", "div", "maximum", "minimum", "atan2", "fmax"]:
    _overload = "Tensor" if hasattr(getattr(_aten, _name), "Tensor") else "default"
    _target = getattr(getattr(_aten, _name), _overload)
    case(_target, X, Y)
    case(_target, X, COLUMN)
    case(_target, CUBE, weights(4, 1))
    case(_target, weights(6), X)
for _name in ["add", "sub", "mul", "div"]:
    case(getattr(_aten, _name).Tensor, X, 2.5)
    case(getattr(_aten, _name).Tensor, ID_ROWS, 3)
    case(getattr(_aten, _name).Tensor, ID_ROWS, ID_ROWS)
case(_aten.add.Tensor, X, Y, alpha=2, sums=True)
case(_aten.sub.Tensor, X, Y, alpha=-0.5, sums=True)
case(_aten.add.Tensor, X, FLAG)
case(_aten.mul.Tensor, X, FLAG)
case(_aten.mul.Tensor, CUBE, CUBE_FLAG)
case(_aten.add.Tensor, X, NO_BATCH)
case(_aten.add.Tensor, Input("large", ("batch", 6)), 1e30)
case(_aten.rsub.Scalar, X, 1.0)
case(_aten.rsub.Scalar, X, 1, 2, sums=True)
case(_aten.rsub.Scalar, ID_ROWS, 1)
case(_aten.div.Tensor_mode, X, 0.7, rounding_mode="floor")
case(_aten.div.Tensor_mode, ID_ROWS, 2, rounding_mode="trunc")
case(_aten.floor_divide.default, ID_ROWS, 2)
for _name in ["eq", "ne", "gt", "ge", "lt", "le"]:
    case(getattr(_aten, _name).Scalar, X, 0.5)
    case(getattr(_aten, _name).Scalar, ID_ROWS, 1)
    case(getattr(_aten, _name).Tensor, X, Y)
    case(getattr(_aten, _name).Tensor, weights(6), X)
    case(getattr(_aten, _name).Tensor, ID_ROWS, numbers([0, 1, 2, 3]))
case(_aten.lt.Scalar, SHORT_IDS, 2)
for _name in ["logical_and", "logical_or", "logical_xor"]:
    case(getattr(_aten, _name).default, FLAG, Input("flag2", ("batch", 6), torch.bool))
case(_aten.__and__.Tensor, FLAG, Input("flag2", ("batch", 6), torch.bool))
case(_aten.__or__.Tensor, FLAG, Input("flag2", ("batch", 6), torch.bool))
case(_aten.bitwise_and.Tensor, FLAG, Input("flag2", ("batch", 6), torch.bool))
case(_aten.bitwise_or.Tensor, FLAG, Input("flag2", ("batch", 6), torch.bool))
case(_aten.bitwise_not.default, FLAG)
for _name in ["and", "or", "xor"]:
    case(getattr(_aten, f"__{_name}__").Scalar, ID_ROWS, 3)
    case(getattr(_aten, f"bitwise_{_name}").Scalar, ID_ROWS, 3)
for _name in ["left", "right"]:
    case(getattr(_aten, f"__{_name[0]}shift__").Scalar, ID_ROWS, 1)
    case(getattr(_aten, f"bitwise_{_name}_shift").Tensor_Scalar, ID_ROWS, 1)
case(_aten.where.self, FLAG, X, Y)
case(_aten.where.self, FLAG, X, weights(6))
case(_aten.where.ScalarOther, FLAG, X, 0.0)
case(_aten.masked_fill.Scalar, X, FLAG, -1e9)
case(_aten.masked_fill.Scalar, X, FLAG, -math.inf)
case(_aten.masked_fill.Scalar, CUBE, Input("rows", ("batch", 4, 1), torch.bool), 0)
case(_aten.masked_fill.Tensor, X, FLAG, numbers(2.0, torch.float32))
for _name in ["mul.Tensor", "add.Tensor", "maximum.default", "minimum.default"]:
    _base, _overload = _name.split(".")
    case(getattr(getattr(_aten, _base), _overload), FLAG, Input("flag2", ("batch", 6), torch.bool))
case(_aten.addcmul.default, X, X, Y, value=0.5, sums=True)
case(_aten.lerp.Scalar, X, Y, 0.25, sums=True)
