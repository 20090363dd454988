"""Convolutions and pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from recfx.onnx.rule import Call, fixed, rule
from recfx.onnx.types import Untranslated

_aten = torch.ops.aten


def _each(given: Any, count: int) -> list[int]:
    """One number for each spatial dimension."""
    numbers = [given] * count if isinstance(given, int) else list(given)
    if not all(isinstance(one, int) for one in numbers):
        raise Untranslated("a convolution with a free size")
    return numbers * count if len(numbers) == 1 else numbers


def _spatial(call: Call, name: str) -> int:
    """The number of spatial dimensions; the input must have a batch and channels."""
    count = {"1d": 1, "2d": 2, "3d": 3}.get(str(call.node.target).split(".")[1][-2:])
    held = call.fake(name)
    count = held.ndim - 2 if count is None else count
    if held.ndim != count + 2:
        raise Untranslated("a convolution or pooling without a batch")
    return count


@rule(
    *(_aten.conv1d.default, _aten.conv2d.default, _aten.conv3d.default),
    *(_aten.conv1d.padding, _aten.conv2d.padding, _aten.conv3d.padding),
)
def convolution(call: Call) -> str:
    """A convolution."""
    count = _spatial(call, "input")
    stride, dilation = (_each(call[name], count) for name in ("stride", "dilation"))
    pads = _pads(call, count, dilation)
    return call.graph.op(
        "Conv", call.tensor("input"), call.tensor("weight"), call.optional("bias"),
        strides=stride, dilations=dilation, pads=pads, group=call["groups"],
    )  # fmt: skip


def _pads(call: Call, count: int, dilation: Sequence[int]) -> list[int]:
    """The padding at all starts, then at all ends."""
    padding = call["padding"]
    if padding == "valid":
        return [0] * (2 * count)
    if padding == "same":
        kernel = [fixed(one, "a convolution") for one in call.fake("weight").shape[2:]]
        totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return [*(total // 2 for total in totals), *(total - total // 2 for total in totals)]
    return _each(padding, count) * 2


@rule(_aten.convolution.default)
def general_convolution(call: Call) -> str:
    """A convolution or a transposed one."""
    count = call.fake("input").ndim - 2
    options: dict[str, Any] = {
        "strides": _each(call["stride"], count),
        "dilations": _each(call["dilation"], count),
        "pads": _each(call["padding"], count) * 2,
        "group": call["groups"],
    }
    if call["transposed"]:
        options["output_padding"] = _each(call["output_padding"], count)
    kind = "ConvTranspose" if call["transposed"] else "Conv"
    return call.graph.op(kind, call.tensor("input"), call.tensor("weight"), call.optional("bias"), **options)


@rule(_aten.conv_transpose1d.default, _aten.conv_transpose2d.input)
def transposed_convolution(call: Call) -> str:
    """A transposed convolution."""
    count = _spatial(call, "input")
    return call.graph.op(
        "ConvTranspose", call.tensor("input"), call.tensor("weight"), call.optional("bias"),
        strides=_each(call["stride"], count), dilations=_each(call["dilation"], count),
        pads=_each(call["padding"], count) * 2, output_padding=_each(call["output_padding"], count), group=call["groups"],
    )  # fmt: skip


@rule(_aten.max_pool1d.default, _aten.max_pool2d.default, _aten.max_pool3d.default)
def max_pool(call: Call) -> str:
    """The largest element of each window; NaN if the window holds NaN.

    ONNX Runtime skips NaN, and starts from the smallest finite number.
    """
    count, graph, dtype = _spatial(call, "self"), call.graph, call.out.dtype
    kernel = _each(call["kernel_size"], count)
    options: dict[str, Any] = {
        "kernel_shape": kernel,
        "strides": _each(call["stride"], count) if call["stride"] else kernel,
        "pads": _each(call["padding"], count) * 2,
        "dilations": _each(call["dilation"], count),
        "ceil_mode": int(call["ceil_mode"]),
    }
    if dtype is not torch.float32:
        raise Untranslated(f"max pooling of {dtype}")
    x, infinity = call.tensor("self"), graph.scalar(float("-inf"), dtype)
    none, some, odd = (graph.scalar(rank, dtype) for rank in (0, 1, 2))
    rank = graph.op("Where", graph.op("Equal", x, infinity), none, some)
    rank = graph.op("MaxPool", graph.op("Where", graph.op("IsNaN", x), odd, rank), **options)
    made = graph.op("Where", graph.op("Equal", rank, none), infinity, graph.op("MaxPool", x, **options))
    return graph.op("Where", graph.op("Equal", rank, odd), graph.scalar(float("nan"), dtype), made)


@rule(_aten.avg_pool1d.default, _aten.avg_pool2d.default, _aten.avg_pool3d.default)
def average_pool(call: Call) -> str:
    """The mean of each window."""
    count = _spatial(call, "self")
    if call["ceil_mode"] or call.given.get("divisor_override") is not None:
        raise Untranslated("average pooling with incomplete windows or another divisor")
    kernel = _each(call["kernel_size"], count)
    return call.graph.op(
        "AveragePool", call.tensor("self"), kernel_shape=kernel,
        strides=_each(call["stride"], count) if call["stride"] else kernel,
        pads=_each(call["padding"], count) * 2, count_include_pad=int(call["count_include_pad"]),
    )  # fmt: skip


@rule(_aten.adaptive_avg_pool1d.default, _aten.adaptive_avg_pool2d.default, _aten.adaptive_avg_pool3d.default)
def adaptive_average_pool(call: Call) -> str:
    """The means of equal windows, whose number is given."""
    count, held = _spatial(call, "self"), call.fake("self")
    wanted = _each(call["output_size"], count)
    sizes = [fixed(one, "adaptive pooling") for one in held.shape[2:]]
    if any(size % want for size, want in zip(sizes, wanted, strict=True)):
        raise Untranslated("adaptive pooling into windows of different lengths")
    kernel = [size // want for size, want in zip(sizes, wanted, strict=True)]
    return call.graph.op("AveragePool", call.tensor("self"), kernel_shape=kernel, strides=kernel)
