"""Multiply-adds of torch's operators whose count does not follow from the sizes of operands and result: convolutions, recurrent layers,
attention, einsum, sorting."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from recfx.cost.sizes import Sizes
from recfx.ir.op_sets import RECURRENT

_aten = torch.ops.aten


def layer_multiply_adds(node: fx.Node, sizes: Sizes) -> int | None:
    """The multiply-adds of a node; None for an operator without an entry in this file."""
    count = _COUNTS.get(getattr(node.target, "overloadpacket", None))
    return None if count is None else count(node, sizes)


def _held(node: Any) -> Any:
    return node.meta["val"]


def _convolution(node: fx.Node, sizes: Sizes) -> int:
    """Every element of the result sums over the input channels of its group and the positions of the kernel."""
    weight = _held(node.args[1])
    return sizes.elements(_held(node)) * sizes.elements(weight) // max(sizes.number(weight.shape[0]), 1)


def _transposed(node: fx.Node, sizes: Sizes) -> int:
    """Every element of the input is added to the output channels of its group and the positions of the kernel."""
    weight = _held(node.args[1])
    return sizes.elements(_held(node.args[0])) * sizes.elements(weight) // max(sizes.number(weight.shape[0]), 1)


def _general(node: fx.Node, sizes: Sizes) -> int:
    return (_transposed if node.args[6] else _convolution)(node, sizes)


def _recurrent(node: fx.Node, sizes: Sizes) -> int:
    """Each step multiplies by all matrices of all layers."""
    arguments: Any = node.args
    steps = _held(arguments[0])
    rows = sizes.elements(steps) // max(sizes.number(steps.shape[-1]), 1)
    return rows * sum(sizes.elements(_held(p)) for p in arguments[2] if _held(p).ndim == 2)


def _cell(node: fx.Node, sizes: Sizes) -> int:
    arguments: Any = node.args
    rows = sizes.number(_held(arguments[0]).shape[0])
    return rows * sum(sizes.elements(_held(weight)) for weight in arguments[2:4])


def _attention(node: fx.Node, sizes: Sizes) -> int:
    """Scores and weighted sums; the operands are read from the arguments because one tensor may be query, key and value."""
    arguments: Any = node.args
    return 2 * sizes.elements(_held(arguments[0])) * sizes.number(_held(arguments[1]).shape[-2])


def _einsum(node: fx.Node, sizes: Sizes) -> int | None:
    """The product of the sizes of all letters; None for an equation with dots."""
    arguments: Any = node.args
    equation = arguments[0].replace(" ", "")
    if "." in equation:
        return None
    letters: dict[str, int] = {}
    for term, operand in zip(equation.partition("->")[0].split(","), arguments[1], strict=True):
        letters |= {letter: sizes.number(size) for letter, size in zip(term, _held(operand).shape, strict=True)}
    return math.prod(letters.values())


def _tensordot(node: fx.Node, sizes: Sizes) -> int:
    arguments: Any = node.args
    first = _held(arguments[0])
    return sizes.elements(_held(node)) * math.prod(sizes.number(first.shape[axis]) for axis in arguments[2])


def _pooled(node: fx.Node, sizes: Sizes) -> int:
    """Every element of the result reads the positions of the kernel."""
    arguments: Any = node.args
    result = _held(node)
    first = result[0] if isinstance(result, tuple | list) else result
    kernel = arguments[1] if isinstance(arguments[1], list | tuple) else [arguments[1]]
    axes = int(str(node.target).partition("pool")[2][0])
    volume = math.prod(kernel) if len(kernel) > 1 else kernel[0] ** axes
    return sizes.elements(first) * int(volume)


def _sorted(node: fx.Node, sizes: Sizes) -> int:
    """Elements times the logarithm of their number, for sorting and for Fourier transforms."""
    elements = sizes.elements(_held(node.args[0]))
    return elements * max(elements.bit_length(), 1)


Count = Callable[[fx.Node, Sizes], int | None]

_COUNTS: dict[Any, Count] = {
    **dict.fromkeys((_aten.conv1d, _aten.conv2d, _aten.conv3d), _convolution),
    **dict.fromkeys((_aten.conv_transpose1d, _aten.conv_transpose2d, _aten.conv_transpose3d), _transposed),
    _aten.convolution: _general,
    **{target.overloadpacket: _recurrent for target in RECURRENT},
    **dict.fromkeys((_aten.gru_cell, _aten.lstm_cell, _aten.rnn_tanh_cell, _aten.rnn_relu_cell), _cell),
    **dict.fromkeys((_aten.max_pool1d, _aten.max_pool2d, _aten.max_pool3d, _aten.max_pool2d_with_indices), _pooled),
    **dict.fromkeys((_aten.avg_pool1d, _aten.avg_pool2d, _aten.avg_pool3d), _pooled),
    _aten.scaled_dot_product_attention: _attention,
    _aten.einsum: _einsum,
    _aten.tensordot: _tensordot,
    **dict.fromkeys((_aten.sort, _aten.argsort, _aten.topk, _aten.msort), _sorted),
    **dict.fromkeys((_aten.fft_fft, _aten.fft_ifft, _aten.fft_rfft, _aten.fft_irfft), _sorted),
}
