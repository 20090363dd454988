"""Calls of every ATen operator that the models of the zoo and of other libraries are made of. Cases of the dialect: `dialect_cases`.

A backend that does not support an operator, or this form of it, leaves it to torch. A backend that supports it computes the same.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from conformance_kit import Call, Case, Constant, Input, Size

_aten = torch.ops.aten
_RNG = torch.Generator().manual_seed(11)

X = Input("x", ("batch", 6))
Y = Input("y", ("batch", 6))
COLUMN = Input("column", ("batch", 1))
CUBE = Input("cube", ("batch", 4, 6))
OTHER = Input("other", ("batch", 4, 6))
KEYS = Input("keys", ("batch", 6, 5))
IMAGE = Input("image", ("batch", 3, 8, 6))
FLAG = Input("flag", ("batch", 6), torch.bool)
CUBE_FLAG = Input("cube_flag", ("batch", 4, 6), torch.bool)
IDS = Input("ids", ("batch",), torch.int64)
ID_ROWS = Input("id_rows", ("batch", 4), torch.int64)
PICKS = Input("picks", ("batch", 4, 6), torch.int64)
SHORT_IDS = Input("short_ids", ("batch",), torch.int32)
FACTORS = Input("factors", ("batch",))
NO_BATCH = Input("request", (1, 6))


def weights(*shape: int) -> Constant:
    return Constant(torch.randn(shape, generator=_RNG))


def positive(*shape: int) -> Constant:
    return Constant(torch.rand(shape, generator=_RNG) + 0.5)


def numbers(values: Any, dtype: torch.dtype = torch.int64) -> Constant:
    return Constant(torch.tensor(values, dtype=dtype))


CASES: list[Case] = []


def case(target: Any, *args: Any, sums: bool = False, **keywords: Any) -> None:
    count = sum(c.target is target for c in CASES)
    CASES.append(Case(f"{str(target).removeprefix('aten.')}-{count}", target, args, keywords, sums))


# Functions of one tensor.
for _name in (
    *(
        "relu sigmoid tanh silu mish selu relu6 hardswish hardsigmoid log_sigmoid softplus erf neg abs elu hardtanh".split()
    ),
    *(
        "exp expm1 log log1p log2 sqrt rsqrt reciprocal sin cos sign floor ceil round square logit gelu nan_to_num".split()
    ),
    *("isnan isinf isfinite logical_not clone alias detach contiguous lift_fresh_copy zeros_like ones_like".split()),
    *("softsign trunc exp2 sinh cosh asinh atan celu softshrink hardshrink".split()),
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
for _name in "add sub mul div maximum minimum atan2 fmax".split():
    _overload = "Tensor" if hasattr(getattr(_aten, _name), "Tensor") else "default"
    _target = getattr(getattr(_aten, _name), _overload)
    case(_target, X, Y)
    case(_target, X, COLUMN)
    case(_target, CUBE, weights(4, 1))
    case(_target, weights(6), X)
for _name in "add sub mul div".split():
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
for _name in "eq ne gt ge lt le".split():
    case(getattr(_aten, _name).Scalar, X, 0.5)
    case(getattr(_aten, _name).Scalar, ID_ROWS, 1)
    case(getattr(_aten, _name).Tensor, X, Y)
    case(getattr(_aten, _name).Tensor, weights(6), X)
    case(getattr(_aten, _name).Tensor, ID_ROWS, numbers([0, 1, 2, 3]))
case(_aten.lt.Scalar, SHORT_IDS, 2)
for _name in "logical_and logical_or logical_xor".split():
    case(getattr(_aten, _name).default, FLAG, Input("flag2", ("batch", 6), torch.bool))
case(_aten.__and__.Tensor, FLAG, Input("flag2", ("batch", 6), torch.bool))
case(_aten.__or__.Tensor, FLAG, Input("flag2", ("batch", 6), torch.bool))
case(_aten.bitwise_and.Tensor, FLAG, Input("flag2", ("batch", 6), torch.bool))
case(_aten.bitwise_or.Tensor, FLAG, Input("flag2", ("batch", 6), torch.bool))
case(_aten.bitwise_not.default, FLAG)
case(_aten.where.self, FLAG, X, Y)
case(_aten.where.self, FLAG, X, weights(6))
case(_aten.where.ScalarOther, FLAG, X, 0.0)
case(_aten.masked_fill.Scalar, X, FLAG, -1e9)
case(_aten.masked_fill.Scalar, X, FLAG, -math.inf)
case(_aten.masked_fill.Scalar, CUBE, Input("rows", ("batch", 4, 1), torch.bool), 0)
case(_aten.masked_fill.Tensor, X, FLAG, numbers(2.0, torch.float32))
case(_aten.addcmul.default, X, X, Y, value=0.5, sums=True)
case(_aten.lerp.Scalar, X, Y, 0.25, sums=True)

# Shapes.
case(_aten.reshape.default, CUBE, [Size(CUBE, 0), 24])
case(_aten.reshape.default, CUBE, [-1, 6])
case(_aten.reshape.default, CUBE, [Size(CUBE, 0, 4), 6])
case(_aten.reshape.default, CUBE, [Size(CUBE, 0), 2, 2, 3, 2])
case(_aten.view.default, X, [Size(X, 0), 2, 3])
case(_aten.flatten.using_ints, CUBE, 1)
case(_aten.flatten.using_ints, CUBE, 0, 1)
case(_aten.unflatten.int, X, 1, [2, 3])
case(_aten.unsqueeze.default, X, 1)
case(_aten.unsqueeze.default, X, -1)
case(_aten.squeeze.dim, COLUMN, 1)
case(_aten.squeeze.dim, X, 1)
case(_aten.squeeze.dims, Input("thin", ("batch", 1, 3, 1)), [1, 3])
case(_aten.permute.default, CUBE, [0, 2, 1])
case(_aten.permute.default, CUBE, [2, 0, 1])
case(_aten.transpose.int, CUBE, 1, 2)
case(_aten.transpose.int, CUBE, 0, 1)
case(_aten.t.default, X)
case(_aten.expand.default, COLUMN, [-1, 5])
case(_aten.expand.default, weights(1, 6), [Size(X, 0), 6])
case(_aten.expand.default, X, [3, -1, -1])
case(_aten.expand_as.default, COLUMN, X)
case(_aten.repeat.default, X, [1, 2])
case(_aten.repeat.default, X, [2, 1, 1])
case(_aten.repeat_interleave.self_int, CUBE, 3, 1)
case(_aten.tile.default, X, [1, 3])
case(_aten.slice.Tensor, X, 1, 1, 4)
case(_aten.slice.Tensor, X, 1, -3, 9223372036854775807)
case(_aten.slice.Tensor, X, 1, 0, 6, 2)
case(_aten.slice.Tensor, CUBE, 0, 0, 1)
case(_aten.narrow.default, X, 1, 2, 3)
case(_aten.select.int, CUBE, 1, 2)
case(_aten.select.int, CUBE, 2, -1)
case(_aten.select.int, ID_ROWS, 1, 3)
case(_aten.cat.default, [X, Y], 1)
case(_aten.cat.default, [X, Y], 0)
case(_aten.cat.default, [X, Y, COLUMN], -1)
case(_aten.cat.default, [X, FLAG], 1)
case(_aten.stack.default, [X, Y], 1)
case(_aten.stack.default, [X, Y], 0)
case(_aten.split.Tensor, X, 4, 1)
case(_aten.split_with_sizes.default, X, [1, 2, 3], 1)
case(_aten.chunk.default, X, 3, 1)
case(_aten.unbind.int, CUBE, 1)
case(_aten.flip.default, X, [1])
case(_aten.roll.default, X, [2], [1])
case(_aten.tril.default, CUBE)
case(_aten.triu.default, CUBE, 1)
case(_aten.diagonal.default, KEYS, 0, 1, 2)
case(_aten.pad.default, CUBE, [1, 2])
case(_aten.pad.default, CUBE, [0, 0, 1, 0], "constant", 0.5)
case(_aten.constant_pad_nd.default, IMAGE, [1, 1, 2, 0])
case(_aten.full_like.default, X, 2.5)
case(_aten.new_zeros.default, X, [Size(X, 0), 3])
case(_aten.new_ones.default, X, [Size(X, 0), 3])
case(_aten.zeros.default, [Size(X, 0), 2])
case(_aten.arange.start_step, 0, Size(X, 0), 1, dtype=torch.int64)
case(_aten.arange.default, Size(X, 0))

# Reductions.
for _name in "sum mean".split():
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
for _name in "amax amin".split():
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

# Lookups, and other reads at computed places.
_TABLE = weights(7, 5)
case(_aten.embedding.default, _TABLE, IDS)
case(_aten.embedding.default, _TABLE, ID_ROWS)
case(_aten.embedding.default, _TABLE, SHORT_IDS)
case(_aten.embedding.default, _TABLE, ID_ROWS, 0)
case(_aten.embedding.default, weights(3, 1), PICKS)
_OFFSETS = Input("offsets", ("batch",), torch.int64)
_IDS_OF_BAGS = Input("bag_ids", ("3*batch",), torch.int64)
for _mode in (0, 1):
    case(
        _aten.embedding_bag.padding_idx,
        _TABLE,
        _IDS_OF_BAGS,
        _OFFSETS,
        False,
        _mode,
        False,
        None,
        False,
        None,
        sums=True,
    )
    case(
        _aten.embedding_bag.padding_idx, _TABLE, _IDS_OF_BAGS, _OFFSETS, False, _mode, False, None, False, 2, sums=True
    )
case(_aten.index_select.default, _TABLE, 0, IDS)
case(_aten.index_select.default, CUBE, 1, numbers([0, 3, 1]))
case(_aten.index.Tensor, CUBE, [None, numbers([2, 0])])
case(_aten.index.Tensor, _TABLE, [IDS])
case(_aten.gather.default, _TABLE, 0, Input("row_ids", ("batch", 5), torch.int64))
case(_aten.gather.default, CUBE, 1, PICKS)
case(_aten.index_put.default, weights(7, 5), [numbers([1, 3])], weights(2, 5))
case(_aten.scatter_add.default, weights(4, 6), 0, numbers([[0, 1, 2, 3, 0, 1]]), weights(1, 6))
case(_aten.one_hot.default, IDS, 7)
case(_aten.bucketize.Tensor, X, numbers([-1.0, 0.0, 0.5], torch.float32))
case(_aten.scatter.src, weights(4, 6), 0, numbers([[0, 1, 2, 3, 0, 1]]), weights(1, 6))
case(_aten.scatter.value, CUBE, 1, numbers([[[0, 1, 2, 3, 0, 1]]]), 0.5)
case(_aten.scatter_reduce.two, weights(4, 6), 0, numbers([[0, 1, 2, 3, 0, 1]]), weights(1, 6), "amax")
case(_aten.select_scatter.default, CUBE, Y, 1, 2)
case(_aten.diagonal_scatter.default, weights(4, 4), weights(4))
case(_aten._sparse_mm.default, Constant(torch.eye(4).to_sparse()), weights(4, 6), sums=True)

# Other operators of other libraries' models.
_COMPLEX = Call(_aten.fft_rfft.default, (X, None, 1))
case(_aten.fft_rfft.default, X, None, 1, sums=True)
case(_aten.fft_irfft.default, _COMPLEX, 6, 1, sums=True)
case(_aten.fft_fftn.default, X, None, [1], sums=True)
case(_aten.real.default, _COMPLEX, sums=True)
case(_aten._conj.default, _COMPLEX, sums=True)
case(_aten.view_as_complex.default, Input("pairs", ("batch", 3, 2)))
case(_aten.glu.default, X, 1)
case(_aten.gru_cell.default, X, Input("h", ("batch", 4)), *_GATES, sums=True)
case(_aten.max.other, X, Y)
case(_aten.min.other, X, COLUMN)
case(_aten.argmin.default, X, 1)
case(_aten.where.Scalar, FLAG, 1.0, 0.0)
case(_aten.ones.default, [Size(X, 0), 2])
case(_aten.eye.default, 4)
case(_aten.tril_indices.default, 4, 4, -1)
case(_aten.arange.start, 1, Size(X, 0, 2))
case(_aten.to.device, X, torch.device("cpu"), torch.float32)
case(_aten.type_as.default, ID_ROWS, X)
