"""Families of operators: operators of one family take about the same multiple of their limit on one backend."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from recfx.ir.lookup_ops import tables_of
from recfx.ir.op_sets import (
    BROADCASTS,
    DROPOUTS,
    PERMUTATIONS,
    REGROUPINGS,
    SIZED_RESHAPES,
    SLICES,
    SPLITS,
)

_aten = torch.ops.aten

#: Family -> names of torch's operators, without the namespace.
_NAMES = {
    "product": "linear mm bmm matmul addmm baddbmm einsum tensordot bilinear mv dot outer ger inner",
    "convolution": "conv1d conv2d conv3d convolution conv_transpose1d conv_transpose2d conv_transpose3d",
    "recurrent": "gru lstm rnn_tanh rnn_relu gru_cell lstm_cell rnn_tanh_cell rnn_relu_cell",
    "attention": "scaled_dot_product_attention",
    "lookup": "embedding embedding_bag",
    "transcendental": (
        "exp exp2 expm1 log log2 log10 log1p tanh sigmoid silu gelu mish softplus erf erfc sin cos tan sinh cosh pow sqrt rsqrt "
        "elu selu celu log_sigmoid atan atan2 asin acos logaddexp"
    ),
    "mask": (
        "eq ne lt le gt ge equal isnan isinf isfinite logical_and logical_or logical_not logical_xor bitwise_and bitwise_or bitwise_not "
        "bitwise_xor __and__ __or__ __xor__ masked_fill where"
    ),
    "sum": "sum mean prod amax amin max min any all logsumexp count_nonzero argmax argmin nansum nanmean",
    "statistics": (
        "var std var_mean std_mean norm linalg_vector_norm linalg_norm cosine_similarity pairwise_distance cdist cumsum cumprod "
        "cummax cummin logcumsumexp"
    ),
    "normalization": (
        "softmax log_softmax _softmax _log_softmax layer_norm batch_norm group_norm instance_norm rms_norm native_layer_norm "
        "_native_batch_norm_legit_no_training local_response_norm normalize"
    ),
    "pooling": (
        "avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool1d "
        "adaptive_max_pool2d max_pool2d_with_indices upsample_nearest2d upsample_bilinear2d im2col unfold"
    ),
    "concatenation": "cat stack",
    "copy": (
        "clone contiguous repeat repeat_interleave tile index index_select gather take_along_dim masked_select flip roll to _to_copy full "
        "zeros ones arange zeros_like ones_like full_like new_zeros new_ones new_full constant_pad_nd pad one_hot tril triu"
    ),
    "scatter": "scatter scatter_add scatter_reduce index_put index_add index_copy index_fill masked_scatter bincount histc",
    "sort": "sort argsort msort topk kthvalue median unique _unique2 unique_consecutive searchsorted bucketize nonzero",
    "fourier": "fft_fft fft_ifft fft_rfft fft_irfft fft_fft2 fft_ifft2 fft_rfft2 fft_irfft2 _fft_r2c _fft_c2r _fft_c2c",
}
_FAMILY = {name: family for family, names in _NAMES.items() for name in names.split()}

_ROW_PICKS = (_aten.index_select.default, _aten.index.Tensor)
_VIEWS = {
    *(operator.getitem, _aten.select.int, _aten.unbind.int, _aten.alias.default, _aten.detach.default),
    *(*REGROUPINGS, *PERMUTATIONS, *BROADCASTS, *SLICES, *SPLITS, *DROPOUTS),
}


def family_of(node: fx.Node) -> str:
    """The family of a node.

    "view" moves no data, and an operator of the recfx dialect is a family of its own. Of other operators without an entry, those that
    torch tags as element-wise are "elementwise", those that look up rows are "lookup", and the rest is "other".
    """
    if not isinstance(node.target, torch._ops.OpOverload):
        return "view"  # parts of tuples, and arithmetic on sizes
    if node.target in _VIEWS:
        return "copy" if node.target in SIZED_RESHAPES and not _is_contiguous(node.args[0]) else "view"
    space, _, name = node.target._schema.name.partition("::")
    if space == "recfx":
        return name
    known = _FAMILY.get(name) if space == "aten" else None
    if tables_of(node) or (node.target in _ROW_PICKS and _is_state(node.args[0])):
        return "lookup"
    if known is not None:
        return known
    return "elementwise" if torch.Tag.pointwise in node.target.tags else "other"


def _is_state(argument: Any) -> bool:
    return isinstance(argument, fx.Node) and argument.op == "get_attr"


def _is_contiguous(argument: Any) -> bool:
    """Whether the strides of a value are those of a contiguous tensor, compared as expressions."""
    value = argument.meta.get("val") if isinstance(argument, fx.Node) else None
    if not isinstance(value, torch.Tensor) or value.layout is not torch.strided:
        return True
    expected: Any = 1
    for size, stride in zip(reversed(value.shape), reversed(value.stride()), strict=True):
        if expression_of(size) != 1 and expression_of(stride) != expected:
            return False
        expected = expected * expression_of(size)
    return True


def expression_of(size: Any) -> Any:
    """A size as a number or as an expression of symbols."""
    return size if isinstance(size, int) else size.node.expr
