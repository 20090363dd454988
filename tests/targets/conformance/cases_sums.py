"""Cases of reductions, norms, products, convolutions, attention and recurrent layers."""

from __future__ import annotations

import torch
from conformance_kit import Input
from conformance_operands import CUBE, FLAG, ID_ROWS, IMAGE, KEYS, X, Y, case, positive, weights

_aten = torch.ops.aten

# Reductions.
for _name in ["sum", "mean"]:
    _target = _aten.sum.dim_IntList if _name == "sum" else _aten.mean.dim
    case(_target, X, [1], sums=True)
    case(_target, CUBE, [1], True, sums=True)
    case(_target, CUBE, [1, 2], sums=True)
    case(_target, CUBE, [-1], sums=True)
    case(_target, CUBE, [0], sums=True)
case(_aten.sum.dim_IntList, ID_ROWS, [1])
case(_aten.sum.dim_IntList, FLAG, [1])
case(_aten.sum.default, X, sums=True)
case(_aten.mean.default, X, sums=True)
for _name in ["amax", "amin"]:
    case(getattr(_aten, _name).default, X, [1])
    case(getattr(_aten, _name).default, CUBE, [1], True)
    case(getattr(_aten, _name).default, CUBE, [1, 2])
    case(getattr(_aten, _name).default, ID_ROWS, [1])
case(_aten.max.dim, CUBE, 1)
case(_aten.min.dim, X, 1)
case(_aten.argmax.default, X, 1)
case(_aten.topk.default, X, 3)
case(_aten.topk.default, CUBE, 2, 1)
case(_aten.topk.default, X, 2, -1, False)
case(_aten.sort.default, X, 1)
case(_aten.argsort.default, X, 1)
case(_aten.any.dim, FLAG, 1)
case(_aten.all.dim, FLAG, 1)
case(_aten.cumsum.default, X, 1, sums=True)
case(_aten.cumsum.default, FLAG, 1)
case(_aten.prod.dim_int, X, 1, sums=True)
case(_aten.var.correction, X, [1], correction=1, sums=True)
case(_aten.std.correction, X, [1], correction=0, sums=True)
case(_aten.linalg_vector_norm.default, X, 2, [1], sums=True)
case(_aten.linalg_vector_norm.default, CUBE, 1, [-1], True, sums=True)
case(_aten.logsumexp.default, X, [1], sums=True)
case(_aten.softmax.int, X, 1)
case(_aten.softmax.int, CUBE, 1)
case(_aten.softmax.int, CUBE, -1)
case(_aten.softmax.int, X, 1, torch.float32)
case(_aten.log_softmax.int, X, 1)
case(_aten.cosine_similarity.default, X, Y, sums=True)
case(_aten.layer_norm.default, CUBE, [6], weights(6), weights(6), sums=True)
case(_aten.layer_norm.default, CUBE, [4, 6], None, None, 1e-3, sums=True)
case(_aten.layer_norm.default, X, [6], weights(6), sums=True)
case(_aten.rms_norm.default, X, [6], weights(6), sums=True)
_STATISTICS = (weights(6), weights(6), weights(6), positive(6), False, 0.1, 1e-5, False)
case(_aten.batch_norm.default, X, *_STATISTICS, sums=True)
case(_aten.batch_norm.default, KEYS, *_STATISTICS, sums=True)
case(_aten.batch_norm.default, X, None, None, weights(6), positive(6), False, 0.1, 1e-3, False, sums=True)
case(_aten.group_norm.default, IMAGE, 3, weights(3), weights(3), sums=True)

# Products.
case(_aten.linear.default, X, weights(3, 6), weights(3), sums=True)
case(_aten.linear.default, X, weights(3, 6), sums=True)
case(_aten.linear.default, CUBE, weights(3, 6), weights(3), sums=True)
case(_aten.linear.default, X, weights(1, 6), weights(1), sums=True)
case(_aten.matmul.default, X, weights(6, 3), sums=True)
case(_aten.matmul.default, CUBE, weights(6, 3), sums=True)
case(_aten.matmul.default, CUBE, KEYS, sums=True)
case(_aten.matmul.default, weights(3, 4), CUBE, sums=True)
case(_aten.matmul.default, X, weights(6), sums=True)
case(_aten.matmul.default, CUBE, weights(6), sums=True)
case(_aten.bmm.default, CUBE, KEYS, sums=True)
case(_aten.mm.default, X, weights(6, 3), sums=True)
case(_aten.addmm.default, weights(3), X, weights(6, 3), sums=True)
case(_aten.addmm.default, weights(3), X, weights(6, 3), beta=0.5, alpha=2.0, sums=True)
case(_aten.baddbmm.default, Input("added", ("batch", 4, 5)), CUBE, KEYS, sums=True)
case(_aten.einsum.default, "bij,bjk->bik", [CUBE, KEYS], sums=True)
case(_aten.einsum.default, "bi,bj->bij", [X, Y])
case(_aten.tensordot.default, CUBE, weights(6, 3), [2], [0], sums=True)
case(_aten.conv1d.default, CUBE, weights(5, 4, 3), weights(5), sums=True)
case(_aten.conv1d.default, CUBE, weights(4, 1, 3), None, [1], [1], [1], 4, sums=True)
case(_aten.conv2d.default, IMAGE, weights(4, 3, 3, 2), weights(4), sums=True)
case(_aten.conv2d.default, IMAGE, weights(4, 3, 3, 3), weights(4), [2, 1], [1, 0], [1, 2], sums=True)
case(_aten.conv2d.padding, IMAGE, weights(4, 3, 3, 2), weights(4), [1, 1], "same", sums=True)
case(_aten.conv2d.padding, IMAGE, weights(4, 3, 3, 2), None, [1, 1], "valid", sums=True)
case(_aten.max_pool2d.default, IMAGE, [2, 2])
case(_aten.max_pool2d.default, IMAGE, [3, 3], [2, 2], [1, 1])
case(_aten.max_pool2d.default, IMAGE, [2, 2], [2, 2], [0, 0], [1, 1], True)
case(_aten.max_pool1d.default, CUBE, [2])
case(_aten.avg_pool2d.default, IMAGE, [2, 2], sums=True)
case(_aten.avg_pool2d.default, IMAGE, [3, 3], [1, 1], [1, 1], sums=True)
case(_aten.avg_pool1d.default, CUBE, [2], sums=True)
case(_aten.adaptive_avg_pool2d.default, IMAGE, [1, 1], sums=True)
case(_aten.adaptive_avg_pool1d.default, CUBE, [1], sums=True)
_HEADS = tuple(Input(name, ("batch", 2, 4, 6)) for name in ("query", "key", "value"))
case(_aten.scaled_dot_product_attention.default, *_HEADS, sums=True)
case(_aten.scaled_dot_product_attention.default, *_HEADS, Input("m", ("batch", 1, 4, 4), torch.bool), sums=True)
case(_aten.scaled_dot_product_attention.default, *_HEADS, weights(4, 4), 0.0, False, scale=0.3, sums=True)
case(_aten.scaled_dot_product_attention.default, *_HEADS, None, 0.0, True, sums=True)
_GATES = [weights(12, 6), weights(12, 4), weights(12), weights(12)]
case(
    _aten.gru.input,
    Input("steps", (5, "batch", 6)),
    Input("state", (1, "batch", 4)),
    _GATES,
    True,
    1,
    0.0,
    False,
    False,
    False,
    sums=True,
)
case(_aten.lstm.input, Input("steps", (5, "batch", 6)), [Input("state", (1, "batch", 4)), Input("cell", (1, "batch", 4))],
     [weights(16, 6), weights(16, 4), weights(16), weights(16)], True, 1, 0.0, False, False, False, sums=True)  # fmt: skip
