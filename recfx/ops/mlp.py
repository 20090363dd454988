"""MLP chain: a stack of linear layers with their norms, activations and residuals, in one call.

    mlp(x, params, layers, numbers) -> [..., N]

Each layer computes `y = activation(norm(x W^T + b)) + residual`. Weights are float32 or bfloat16 [N, K], or int8 [N, K] with one scale per
output channel. The input of a bfloat16 layer is rounded to bfloat16 and products are summed in float32. The input of an int8 layer is
multiplied by the layer's factors, one for each column, if it has any, and quantised per row: without negative values to 0..255 by
`max / 255`, otherwise to -127..127 by `max|x| / 127`, or by a calibrated scale.
A row that holds an infinity or NaN is not quantised: it gives the infinities and NaN of the float32 product with the dequantised weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional

from recfx.ops import checks
from recfx.ops.descriptions import ACTIVATIONS as ACTIVATIONS
from recfx.ops.descriptions import Layer as Layer
from recfx.ops.library import define, without_gradient

_INTS, _FLOATS = 11, 3

_NO_GRADIENT = "a layer with int8 weights has no gradient: it rounds its input to integers"


def encode(layers: Sequence[Layer]) -> tuple[list[int], list[float]]:
    """Layers as the flat lists of integers and numbers that the operator takes. Factors are only there if a layer has some."""
    ints: list[int] = []
    numbers: list[float] = []
    factors = any(layer.factor >= 0 for layer in layers)
    for layer in layers:
        values: list[Any] = list(dataclasses.astuple(layer))
        values[3] = ACTIVATIONS.index(layer.activation)
        ints += [int(v) for v in values[:_INTS]] + ([layer.factor] if factors else [])
        numbers += [float(v) for v in values[_INTS : _INTS + _FLOATS]]
    return ints, numbers


def decode(ints: Sequence[int], numbers: Sequence[float]) -> list[Layer]:
    """Layers from the flat lists.

    Raises:
        ValueError: The lists do not describe the same number of whole layers, or name an unknown activation.
    """
    count = len(numbers) // _FLOATS
    if len(numbers) % _FLOATS or len(ints) not in (count * _INTS, count * (_INTS + 1)):
        raise ValueError(f"{len(ints)} integers and {len(numbers)} numbers are not the same number of layers")
    width = len(ints) // count if count else _INTS
    if not all(0 <= activation < len(ACTIVATIONS) for activation in ints[3::width]):
        raise ValueError(f"activations must be in [0, {len(ACTIVATIONS)}), got {list(ints[3::width])}")
    layers = []
    for i in range(count):
        own = ints[i * width : (i + 1) * width]
        values: list[Any] = [*own[:_INTS], *numbers[i * _FLOATS : (i + 1) * _FLOATS], *own[_INTS:]]
        values[3] = ACTIVATIONS[values[3]]
        values[9] = bool(values[9])
        layers.append(Layer(*values))
    return layers


#: The smallest normal scale, and a power of two that makes smaller numbers normal.
_SMALLEST, _LIFT = torch.finfo(torch.float32).tiny, 2.0**64

#: Columns up to which sums of products of codes are whole numbers that float32 holds, so that they are exact in any order.
_EXACT_COLUMNS = (1 << 24) // (255 * 127)


def quantize_rows(x: torch.Tensor, input_scale: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantises the input of an int8 layer.

    A scale so small that it is denormal is rounded up, so that no integer leaves its range.

    Args:
        x: float32 [M, K], finite.
        input_scale: A calibrated scale, or 0 for each row's own.

    Returns:
        Integers as float64 [M, K], and the scale [M, 1] float32.
    """
    if input_scale > 0:
        scale = torch.full((x.shape[0], 1), input_scale, device=x.device)
        return (x * (1 / scale)).round().clamp(-127, 127).double(), scale
    high, low = x.amax(1, keepdim=True), x.amin(1, keepdim=True)
    span = torch.maximum(high, -low)
    levels = torch.where(low >= 0, 255.0, 127.0)
    scale = span / levels
    small = (span > 0) & (scale < _SMALLEST)
    kind = torch.finfo(scale.dtype)
    step = kind.tiny * kind.eps  # between neighbouring denormal numbers
    scale = torch.where(small & (scale * levels < span), scale + step, scale)
    inverse = torch.where(span > 0, levels / span, 0.0)
    codes = torch.where(small, x * _LIFT * (1 / (scale * _LIFT)), x * inverse)
    return codes.round().double(), scale


def activate(y: torch.Tensor, layer: Layer, params: Sequence[torch.Tensor]) -> torch.Tensor:
    """The layer's activation."""
    simple: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "none": lambda v: v,
        "relu": torch.relu,
        "gelu": functional.gelu,
        "gelu-tanh": lambda v: functional.gelu(v, approximate="tanh"),
        "silu": functional.silu,
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "leaky-relu": lambda v: functional.leaky_relu(v, layer.number),
    }
    if layer.activation in simple:
        return simple[layer.activation](y)
    slope = params[layer.slope]
    if layer.activation == "prelu":
        return torch.where(y > 0, y, y * slope)
    if layer.activation == "row-dice":
        normed = functional.layer_norm(
            y, (y.shape[-1],), params[layer.gate_scale], params[layer.gate_shift], layer.number
        )
        gate = torch.sigmoid(normed)
        return gate * y + (1 - gate) * slope * y
    gate = torch.sigmoid(y * params[layer.gate_scale] + params[layer.gate_shift])
    return gate * y + (1 - gate) * slope * y


def product(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    scale: torch.Tensor | None = None,
    input_scale: float = 0.0,
    factor: torch.Tensor | None = None,
) -> torch.Tensor:
    """x W^T + b with a weight of any format; the module describes the rounding.

    Args:
        x: float32 [..., K].
        weight: float32, bfloat16 or int8 [N, K].
        bias: float32 [N].
        scale: float32 [N], of an int8 weight.
        input_scale: A calibrated scale of the input of an int8 weight, or 0 for each row's own.
        factor: Factors of the columns of the input of an int8 weight [K].
    """
    if weight.dtype in (torch.float32, torch.float64):  # float64 in reference runs
        return functional.linear(x, weight, bias)
    if weight.dtype is torch.bfloat16:
        return functional.linear(x.bfloat16().float(), weight.float(), bias)
    assert scale is not None
    flat = (x if factor is None else x * factor).reshape(-1, x.shape[-1])
    finite = flat.isfinite()
    rows = finite.all(1, keepdim=True)
    codes, unit = quantize_rows(flat.masked_fill(~rows, 0.0), input_scale)
    # Rows with infinities or NaN: only these decide the result.
    codes = torch.where(rows, codes, flat.masked_fill(finite, 0.0).double())
    kind = torch.float32 if x.shape[-1] <= _EXACT_COLUMNS else torch.float64
    y = (codes.to(kind) @ weight.to(kind).T).float() * scale * torch.where(rows, unit, 1.0)
    y = (y if bias is None else y + bias).reshape(*x.shape[:-1], weight.shape[0])
    return without_gradient(y.detach(), [x], _NO_GRADIENT)


#: A function with the arguments and the result of `product`.
Multiply = Callable[..., torch.Tensor]


def reference(
    x: torch.Tensor,
    params: list[torch.Tensor],
    layers: list[int],
    numbers: list[float],
    multiply: Multiply = product,
) -> torch.Tensor:
    """The reference implementation of `recfx::mlp`, layer by layer.

    Args:
        x: Floating point [..., K].
        params: The parameters of the layers.
        layers: The first list of `encode`.
        numbers: The second list of `encode`.
        multiply: Called for the product of each layer in turn.

    Returns:
        [..., N], with N the width of the last layer.
    """
    values = [x]
    for layer in decode(layers, numbers):
        bias, scale, factor = (params[at] if at >= 0 else None for at in (layer.bias, layer.scale, layer.factor))
        y = multiply(values[-1], params[layer.weight], bias, scale, layer.input_scale, factor)
        if layer.norm:
            gamma = params[layer.norm_weight] if layer.norm_weight >= 0 else None
            beta = params[layer.norm_bias] if layer.norm_bias >= 0 else None
            y = functional.layer_norm(y, (y.shape[-1],), gamma, beta, layer.norm_eps)
        y = activate(y, layer, params)
        values.append(y if layer.residual < 0 else y + values[layer.residual])
    return values[-1].contiguous()


def _fake(x: torch.Tensor, params: list[torch.Tensor], layers: list[int], numbers: list[float]) -> torch.Tensor:
    width = checks.check_mlp(x, params, decode(layers, numbers))
    return x.new_empty((*x.shape[:-1], width), dtype=torch.float32)


mlp = define("mlp(Tensor x, Tensor[] params, int[] layers, float[] numbers) -> Tensor", reference, _fake, reference)
