"""Cases of two operators that backends fuse: a function of the result of a product, a norm, a convolution or a sum."""

from __future__ import annotations

import torch
from conformance_kit import Call
from conformance_operands import CUBE, IMAGE, OTHER, X, case, positive, weights

_aten = torch.ops.aten

_STATISTICS = (weights(6), weights(6), weights(6), positive(6), False, 0.1, 1e-5, False)
PRODUCERS = (
    Call(_aten.linear.default, (X, weights(5, 6), weights(5))),
    Call(_aten.linear.default, (CUBE, weights(5, 6))),
    Call(_aten.layer_norm.default, (CUBE, [6], weights(6), weights(6))),
    Call(_aten.batch_norm.default, (X, *_STATISTICS)),
    Call(_aten.conv2d.default, (IMAGE, weights(4, 3, 2, 2), weights(4))),
    Call(_aten.add.Tensor, (CUBE, OTHER)),
    Call(_aten.mul.Tensor, (CUBE, weights(6))),
    Call(_aten.sum.dim_IntList, (CUBE, [1])),
    Call(_aten.relu.default, (CUBE,)),
)

for _made in PRODUCERS:
    for _name in (
        "relu",
        "sigmoid",
        "tanh",
        "exp",
        "gelu",
        "silu",
        "leaky_relu",
        "hardswish",
        "hardsigmoid",
        "relu6",
        "abs",
    ):
        case(getattr(_aten, _name).default, _made, sums=True)
    case(_aten.clamp.default, _made, -0.5, 0.5, sums=True)
    case(_aten.clamp_min.default, _made, 0.0, sums=True)
    case(_aten.clamp_max.default, _made, 0.5, sums=True)
    case(_aten.gt.Scalar, _made, 0.0, sums=True)
    case(_aten.masked_fill.Scalar, _made, Call(_aten.le.Scalar, (_made, 0.0)), -2.0, sums=True)
    case(_aten.softmax.int, _made, -1, sums=True)
    case(_aten.amax.default, _made, [-1], sums=True)
    case(_aten.add.Tensor, _made, 1.0, sums=True)
