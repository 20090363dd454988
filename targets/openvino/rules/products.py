"""Matrix products, attention, convolutions and pooling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from recfx.targets.openvino.rules.registry import Unsupported, rule
from recfx.targets.openvino.rules.shapes import rank_of

_aten = torch.ops.aten


@rule(_aten.linear.default)
def _linear(b: Any, input: Any, weight: Any, bias: Any = None) -> Any:
    made = b.op.matmul(input, weight, False, b.node.args[1].meta["val"].ndim > 1)
    return made if bias is None else b.op.add(made, bias)


@rule(_aten.matmul.default)
def _matmul(b: Any, self: Any, other: Any) -> Any:
    return b.op.matmul(self, other, False, False)


@rule(_aten.mm.default, _aten.bmm.default)
def _mm(b: Any, self: Any, mat2: Any, out_dtype: Any = None) -> Any:
    if out_dtype is not None:
        raise Unsupported("a product of another type than its operands")
    return b.op.matmul(self, mat2, False, False)


def _added(b: Any, added: Any, product: Any, beta: Any, alpha: Any) -> Any:
    product = product if alpha == 1 else b.op.multiply(product, b.number(float(alpha)))
    if beta == 0:
        return product
    return b.op.add(product, added if beta == 1 else b.op.multiply(added, b.number(float(beta))))


@rule(_aten.addmm.default)
def _addmm(b: Any, self: Any, mat1: Any, mat2: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    return _added(b, self, b.op.matmul(mat1, mat2, False, False), beta, alpha)


@rule(_aten.baddbmm.default)
def _baddbmm(b: Any, self: Any, batch1: Any, batch2: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    return _added(b, self, b.op.matmul(batch1, batch2, False, False), beta, alpha)


@rule(_aten.einsum.default)
def _einsum(b: Any, equation: str, tensors: Sequence[Any], *, path: Any = None) -> Any:
    equation = equation.replace(" ", "")
    if "." in equation or "->" not in equation or equation.lower() != equation:
        raise Unsupported(f"the equation {equation}")
    return b.op.einsum(list(tensors), equation)


@rule(_aten.scaled_dot_product_attention.default)
def _attention(
    b: Any,
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Attention as products and a softmax. A query whose keys are all masked gets zeros, as in torch."""
    width = b.size_of(b.node.args[0], -1)
    if dropout_p or enable_gqa or is_causal or not isinstance(width, int):
        raise Unsupported("dropout, a causal mask or heads of different numbers in attention")
    factor = b.number(1 / math.sqrt(width) if scale is None else float(scale))
    scores = b.op.multiply(b.op.matmul(query, key, False, True), factor)
    if attn_mask is not None:
        kind = b.dtype_of(b.node.args[3] if len(b.node.args) > 3 else b.node.kwargs["attn_mask"])
        least = b.number(-math.inf)
        added = b.op.select(attn_mask, b.number(0.0), least) if kind is torch.bool else attn_mask
        scores = b.op.add(scores, added)
        masked = b.op.reduce_logical_and(b.op.equal(scores, least), b.integers([-1]), True)
        weights = b.op.select(masked, b.number(0.0), b.op.softmax(scores, -1))
    else:
        weights = b.op.softmax(scores, -1)
    return b.op.matmul(weights, value, False, False)  # a NaN among a query's weights reaches its whole result


def _convolved(
    b: Any,
    x: Any,
    weight: Any,
    bias: Any,
    spatial: int,
    stride: Any,
    before: Any,
    after: Any,
    dilation: Any,
    groups: int,
) -> Any:
    strides, dilations = _per_axis(stride, spatial), _per_axis(dilation, spatial)
    if groups == 1:
        made = b.op.convolution(x, weight, strides, list(before), list(after), dilations)
    else:
        shape = b.node.args[1].meta["val"].shape
        grouped = b.op.reshape(weight, b.integers([groups, shape[0] // groups, *shape[1:]]), False)
        made = b.op.group_convolution(x, grouped, strides, list(before), list(after), dilations)
    return made if bias is None else b.op.add(made, b.op.reshape(bias, b.integers([1, -1, *[1] * spatial]), False))


def _per_axis(value: Any, count: int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * count if len(values) == 1 else values


@rule(_aten.conv1d.default, _aten.conv2d.default)
def _convolution(
    b: Any,
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    spatial = b.node.args[1].meta["val"].ndim - 2
    _require_batch(b, spatial)
    around = _per_axis(padding, spatial)
    return _convolved(b, input, weight, bias, spatial, stride, around, around, dilation, groups)


@rule(_aten.conv1d.padding, _aten.conv2d.padding)
def _padded_convolution(
    b: Any,
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: str = "valid",
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    shape = b.node.args[1].meta["val"].shape
    spatial = len(shape) - 2
    _require_batch(b, spatial)
    before = after = [0] * spatial
    if padding == "same":
        total = [d * (size - 1) for d, size in zip(_per_axis(dilation, spatial), shape[2:], strict=True)]
        before, after = [t // 2 for t in total], [t - t // 2 for t in total]
    return _convolved(b, input, weight, bias, spatial, stride, before, after, dilation, groups)


def _require_batch(b: Any, spatial: int) -> None:
    if rank_of(b) != spatial + 2:
        raise Unsupported("an input without a batch")


@rule(_aten.max_pool1d.default, _aten.max_pool2d.default)
def _max_pool(
    b: Any,
    self: Any,
    kernel_size: Any,
    stride: Any = (),
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> Any:
    spatial = 1 if b.node.target is _aten.max_pool1d.default else 2
    _require_batch(b, spatial)
    kernel, around = _per_axis(kernel_size, spatial), _per_axis(padding, spatial)
    if set(_per_axis(dilation, spatial)) != {1}:
        raise Unsupported("dilation")
    strides = kernel if stride in ((), [], None) else _per_axis(stride, spatial)
    rounding = "ceil_torch" if ceil_mode else "floor"

    def pooled(x: Any) -> Any:
        return b.op.max_pool(x, strides, [1] * spatial, around, around, kernel, rounding).output(0)

    def any_of(flags: Any) -> Any:
        return b.op.less(b.number(0.0), pooled(b.op.convert(flags, "f32")))

    least, lost = b.number(-math.inf), b.op.is_nan(self)
    numbers = any_of(b.op.logical_not(b.op.logical_or(lost, b.op.equal(self, least))))
    found = b.op.select(numbers, pooled(b.op.select(lost, b.number(0.0), self)), least)
    return b.op.select(any_of(lost), b.number(math.nan), found)


@rule(_aten.avg_pool1d.default, _aten.avg_pool2d.default)
def _avg_pool(
    b: Any,
    self: Any,
    kernel_size: Any,
    stride: Any = (),
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: Any = None,
) -> Any:
    spatial = 1 if b.node.target is _aten.avg_pool1d.default else 2
    _require_batch(b, spatial)
    if divisor_override is not None or ceil_mode:
        raise Unsupported("another divisor, or a part of a window at the end")
    kernel, around = _per_axis(kernel_size, spatial), _per_axis(padding, spatial)
    strides = kernel if stride in ((), [], None) else _per_axis(stride, spatial)
    return b.op.avg_pool(self, strides, around, around, kernel, not count_include_pad, "floor")


@rule(_aten.adaptive_avg_pool1d.default, _aten.adaptive_avg_pool2d.default)
def _global_pool(b: Any, self: Any, output_size: Any) -> Any:
    spatial = 1 if b.node.target is _aten.adaptive_avg_pool1d.default else 2
    _require_batch(b, spatial)
    if set(_per_axis(output_size, spatial)) != {1}:
        raise Unsupported("an adaptive average of several windows")
    return b.op.reduce_mean(self, b.integers(range(-spatial, 0)), True)
