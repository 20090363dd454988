"""A layer of a compressed interaction network, which learns from products of feature maps with the fields.

    cin(x0, x, params, layers, numbers, triangle) -> [B, O, D]

    out[b, o, d] = activation(sum_hm W[o, h M + m] x[b, h, d] x0[b, m, d] + bias[o])

With `triangle`, the products are x[b, h, d] x0[b, m, d] for m >= h only, row by row: if x is x0, the others are equal to these.
The weight is float32, bfloat16, or int8 with one scale per output channel; the products of one column are rounded as a row of the input of
`recfx::mlp`.

Lian et al. 2018 (xDeepFM), equation 6.
"""

from __future__ import annotations

from functools import lru_cache

import torch

from recfx.ops import checks
from recfx.ops.descriptions import Layer
from recfx.ops.library import define
from recfx.ops.mlp import Multiply, activate, decode, product


@lru_cache
def triangle_positions(fields: int) -> tuple[int, ...]:
    """The positions h M + m with m >= h, of `fields` maps and as many fields, in order."""
    return tuple(h * fields + m for h in range(fields) for m in range(h, fields))


def product_count(maps: int, fields: int, triangle: bool) -> int:
    """The number of products of maps with fields."""
    return fields * (fields + 1) // 2 if triangle else maps * fields


def reference(
    x0: torch.Tensor,
    x: torch.Tensor,
    params: list[torch.Tensor],
    layers: list[int],
    numbers: list[float],
    triangle: bool,
    multiply: Multiply = product,
) -> torch.Tensor:
    """The reference implementation of `recfx::cin`.

    Args:
        x0: The fields, [B, M, D].
        x: The feature maps, [B, H, D].
        params: The parameters of the layer.
        layers: One layer without norm and residual, as `recfx.ops.mlp.encode` gives it. Its weight is [O, H M], or [O, M (M + 1) / 2].
        numbers: Its numbers.
        triangle: Whether only the products with m >= h are taken; x has as many maps as x0 has fields then.
        multiply: Called for the product with the weight.

    Returns:
        [B, O, D].
    """
    (layer,) = decode(layers, numbers)
    maps, fields = int(x.shape[1]), int(x0.shape[1])
    outer = (x.unsqueeze(2) * x0.unsqueeze(1)).reshape(-1, maps * fields, x.shape[2])
    if triangle:
        outer = outer.index_select(1, torch.tensor(triangle_positions(fields), device=x.device))
    bias, scale = (params[at] if at >= 0 else None for at in (layer.bias, layer.scale))
    y = multiply(outer.transpose(1, 2), params[layer.weight], bias, scale, layer.input_scale)
    return activate(y, layer, params).transpose(1, 2).contiguous()


def _fake(
    x0: torch.Tensor,
    x: torch.Tensor,
    params: list[torch.Tensor],
    layers: list[int],
    numbers: list[float],
    triangle: bool,
) -> torch.Tensor:
    decoded = decode(layers, numbers)
    width = check_cin(x0, x, params, decoded, triangle)
    return x.new_empty((x.shape[0], width, x.shape[2]), dtype=torch.float32)


def check_cin(
    x0: torch.Tensor, x: torch.Tensor, params: list[torch.Tensor], layers: list[Layer], triangle: bool
) -> int:
    """Refuses a layer whose operands do not fit; returns the number of its outputs.

    Raises:
        ValueError: The operands do not fit.
    """
    checks.check_vectors(x0)
    checks.check_vectors(x)
    checks.need(not checks.differ(x.shape[0], x0.shape[0]), "x0 and x must have the same number of rows")
    checks.need(not checks.differ(x.shape[2], x0.shape[2]), "x0 and x must have the same number of columns")
    maps, fields = x.shape[1], x0.shape[1]
    checks.need(isinstance(maps, int) and isinstance(fields, int), "the numbers of maps and fields must be fixed")
    checks.need(not triangle or maps == fields, f"a triangle needs {fields} maps, got {maps}")
    checks.need(len(layers) == 1, f"expected one layer, got {len(layers)}")
    (layer,) = layers
    plain = not layer.norm and layer.residual < 0 and layer.activation != "row-dice" and layer.factor < 0
    checks.need(plain, "the layer must have no norm, no residual, no factors and no gate over its outputs")
    return checks.check_mlp(x, params, layers, product_count(maps, fields, triangle))


cin = define(
    "cin(Tensor x0, Tensor x, Tensor[] params, int[] layers, float[] numbers, bool triangle) -> Tensor",
    reference,
    _fake,
    reference,
)
