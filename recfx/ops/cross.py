"""Cross layers of DCN and DCN-v2, a stack of them in one call.

    cross(x0, x, params, layers) -> [B, D]

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
from recfx.ops.mlp import product

VECTOR, FULL, LOW_RANK = 0, 1, 2


_FIELDS = len(dataclasses.fields(CrossLayer))


def encode(layers: Sequence[CrossLayer]) -> list[int]:
    """Layers as the flat list of integers that the operator takes."""
    return [v for layer in layers for v in dataclasses.astuple(layer)]


def decode(numbers: Sequence[int]) -> list[CrossLayer]:
    """Layers from the flat list.

    Raises:
        ValueError: The list ends within a layer.
    """
    if len(numbers) % _FIELDS:
        raise ValueError(f"{len(numbers)} numbers are not layers of {_FIELDS} numbers")
    return [CrossLayer(*numbers[i : i + _FIELDS]) for i in range(0, len(numbers), _FIELDS)]


def reference(x0: torch.Tensor, x: torch.Tensor, params: list[torch.Tensor], layers: list[int]) -> torch.Tensor:
    """The reference implementation of `recfx::cross`, layer by layer.

    Args:
        x0: [B, D], the factor of every layer.
        x: [B, D], the input of the first layer.
        params: The parameters of the layers.
        layers: The list of `encode`.

    Returns:
        [B, D].
    """
    for layer in decode(layers):
        weight = params[layer.weight]
        bias, scale, inner_scale = (
            params[at] if at >= 0 else None for at in (layer.bias, layer.scale, layer.inner_scale)
        )
        if layer.kind == VECTOR:
            step = x0 * functional.linear(x, weight.reshape(1, -1))
            x = (step if bias is None else step + bias) + x
        else:
            inner = product(x, params[layer.inner], scale=inner_scale) if layer.kind == LOW_RANK else x
            x = x0 * product(inner, weight, bias, scale) + x
    return x.clone()


def _fake(x0: torch.Tensor, x: torch.Tensor, params: list[torch.Tensor], layers: list[int]) -> torch.Tensor:
    checks.check_cross(x0, x, params, decode(layers))
    return x.new_empty(x.shape)


cross = define("cross(Tensor x0, Tensor x, Tensor[] params, int[] layers) -> Tensor", reference, _fake, reference)
