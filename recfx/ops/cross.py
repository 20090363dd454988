"""Cross layers of DCN and DCN-v2, a stack of them in one call.

    cross(x0, x, params, layers, numbers) -> [B, D]

    vector (DCN):      x <- x0 * (x . w) + b + x
    full (DCN-v2):     x <- x0 * (W x + b) + x
    low rank (DCN-v2): x <- x0 * (U (V x) + b) + x

Matrices are float32, bfloat16, or int8 with one scale per output channel; their inputs are rounded as in `recfx::mlp`.

Wang et al. 2017 (DCN), 2021 (DCN V2).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch.nn import functional

from recfx.ops import checks
from recfx.ops.descriptions import CrossLayer as CrossLayer
from recfx.ops.library import define
from recfx.ops.mlp import Multiply, product

VECTOR, FULL, LOW_RANK = 0, 1, 2


#: Integers of a layer without and with factors. A kind of a layer with factors has this added.
_PLAIN, _WHOLE, _FACTORS = 6, 8, 4


def encode(layers: Sequence[CrossLayer]) -> list[int]:
    """Layers as the flat list of integers that the operator takes."""
    ints: list[int] = []
    for layer in layers:
        factors = max(layer.factor, layer.inner_factor) >= 0
        kind, *others = dataclasses.astuple(layer)[: _WHOLE if factors else _PLAIN]
        ints += [kind + _FACTORS * factors, *others]
    return ints


def encode_scales(layers: Sequence[CrossLayer]) -> list[float]:
    """The calibrated scales of layers as the flat list of numbers that the operator takes; empty if no layer has any."""
    numbers = [number for layer in layers for number in (layer.input_scale, layer.inner_input_scale)]
    return numbers if any(numbers) else []


def decode(ints: Sequence[int], numbers: Sequence[float] = ()) -> list[CrossLayer]:
    """Layers from the flat lists.

    Raises:
        ValueError: A list ends within a layer, or they describe different numbers of layers.
    """
    layers: list[CrossLayer] = []
    at = 0
    while at < len(ints):
        factors = ints[at] >= _FACTORS
        width = _WHOLE if factors else _PLAIN
        if at + width > len(ints):
            raise ValueError(f"{len(ints)} numbers end within a layer of {width}")
        layers.append(CrossLayer(ints[at] - _FACTORS * factors, *ints[at + 1 : at + width]))
        at += width
    if numbers and len(numbers) != 2 * len(layers):
        raise ValueError(f"{len(numbers)} scales are not two for each of {len(layers)} layers")
    pairs = zip(numbers[::2], numbers[1::2], strict=True)
    return (
        [
            dataclasses.replace(layer, input_scale=outer, inner_input_scale=inner)
            for layer, (outer, inner) in zip(layers, pairs, strict=True)
        ]
        if numbers
        else layers
    )


def reference(
    x0: torch.Tensor,
    x: torch.Tensor,
    params: list[torch.Tensor],
    layers: list[int],
    numbers: list[float] | None = None,
    multiply: Multiply = product,
) -> torch.Tensor:
    """The reference implementation of `recfx::cross`, layer by layer.

    Args:
        x0: [B, D], the factor of every layer.
        x: [B, D], the input of the first layer.
        params: The parameters of the layers.
        layers: The list of `encode`.
        numbers: The list of `encode_scales`.
        multiply: Called for the product of each matrix in turn, that of V before that of U.

    Returns:
        [B, D].
    """
    for layer in decode(layers, numbers or ()):
        weight = params[layer.weight]
        bias, scale, inner_scale, factor, inner_factor = (
            params[at] if at >= 0 else None
            for at in (layer.bias, layer.scale, layer.inner_scale, layer.factor, layer.inner_factor)
        )
        if layer.kind == VECTOR:
            step = x0 * functional.linear(x, weight.reshape(1, -1))
            x = (step if bias is None else step + bias) + x
        else:
            inner = x
            if layer.kind == LOW_RANK:
                inner = multiply(x, params[layer.inner], None, inner_scale, layer.inner_input_scale, inner_factor)
            x = x0 * multiply(inner, weight, bias, scale, layer.input_scale, factor) + x
    return x.clone()


def _fake(
    x0: torch.Tensor,
    x: torch.Tensor,
    params: list[torch.Tensor],
    layers: list[int],
    numbers: list[float] | None = None,
) -> torch.Tensor:
    checks.check_cross(x0, x, params, decode(layers, numbers or ()))
    return x.new_empty(x.shape)


cross = define(
    "cross(Tensor x0, Tensor x, Tensor[] params, int[] layers, float[] numbers=[]) -> Tensor",
    reference,
    _fake,
    reference,
)
