"""Checks of the operands of the dialect's operators: positions, sizes and dtypes.

Fake kernels call these, so a malformed operator fails where shapes are computed, before any kernel reads its operands. The checks raise
ValueError; the caller adds the node to the message. Sizes that vary are compared as expressions, never as numbers, so that no check
fixes a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch

from recfx.formats.rowwise import ROW_BITS, row_bytes
from recfx.ops.descriptions import CrossLayer, Feature, Layer

_INTEGERS = (torch.int32, torch.int64)
_WEIGHTS = (torch.float32, torch.float64, torch.bfloat16, torch.int8)
_MOST_WIDTH = 1 << 31
_MOST_BASE = 1 << 40


def need(condition: bool, what: str) -> None:
    """Raises ValueError unless the condition holds."""
    if not condition:
        raise ValueError(what)


def differ(first: Any, second: Any) -> bool:
    """Whether two sizes are known to differ: two numbers, or a fixed size and one that varies."""
    if isinstance(first, int) and isinstance(second, int):
        return first != second
    return isinstance(first, int) != isinstance(second, int)


def position(at: int, items: Sequence[Any], what: str, *, optional: bool = False) -> Any:
    """The item at a position; None for -1 if it is optional."""
    if at == -1 and optional:
        return None
    need(0 <= at < len(items), f"no {what} at position {at} of a list of {len(items)}")
    return items[at]


def check_lookup(
    tables: Sequence[torch.Tensor],
    ids: Sequence[torch.Tensor],
    offsets: Sequence[torch.Tensor],
    weights: Sequence[torch.Tensor],
    dense: Sequence[torch.Tensor],
    features: Sequence[Feature],
    copies: Sequence[int],
    width: int,
) -> None:
    """Refuses a grouped lookup whose features do not fit their tables and ids, or do not cover the output exactly once."""
    need(bool(features) and 0 < width < _MOST_WIDTH, f"expected features and columns, got {len(features)} and {width}")
    written = []
    batch = None
    for f in features:
        _check_table(position(f.table, tables, "table"), f)
        held, factors = position(f.ids, ids, "ids"), position(f.weights, weights, "weights", optional=True)
        need(held.dtype in _INTEGERS, f"ids must be int32 or int64, got {held.dtype}")
        need(f.pooling in (0, 1, 2), f"pooling must be 0, 1 or 2, got {f.pooling}")
        need(f.padding >= -1 and abs(f.base) <= _MOST_BASE, f"padding {f.padding} or base {f.base} is out of range")
        if f.length == -1:
            _check_jagged(f, held, position(f.offsets, offsets, "offsets"), factors)
        else:
            _check_fixed(f, held, factors)
            need(batch is None or not differ(batch, held.shape[0]), "all ids must have the same number of rows")
            batch = held.shape[0]
        written.append((f.output, f.output + f.columns))
    need(len(copies) % 2 == 0, f"copies must be pairs, got {len(copies)} numbers")
    for at, column in zip(copies[::2], copies[1::2], strict=True):
        source = position(at, dense, "dense input")
        need(
            source.ndim == 2 and source.is_floating_point(),
            f"expected a floating-point dense input [B, K], got {source.dtype} {list(source.shape)}",
        )
        need(batch is None or not differ(batch, source.shape[0]), "a dense input must have as many rows as the ids")
        written.append((column, column + _fixed_size(source, 1)))
    edges = [(0, 0), *sorted(written), (width, width)]
    need(
        all(a[1] == b[0] for a, b in pairwise(edges)),
        f"features and copies must write each of {width} columns once, got the ranges {sorted(written)}",
    )


def _check_table(table: torch.Tensor, f: Feature) -> None:
    need(table.ndim == 2, f"a table must have 2 dimensions, got {table.ndim}")
    need(0 < f.dim < _MOST_WIDTH and f.output >= 0, f"dim {f.dim} or output {f.output} is out of range")
    if f.bits == 32:
        need(
            table.is_floating_point() and table.shape[1] == f.dim,
            f"expected a floating-point table of {f.dim} columns, got {table.dtype} {list(table.shape)}",
        )
    else:
        need(f.bits in ROW_BITS, f"expected {', '.join(map(str, ROW_BITS))} or 32 bits, got {f.bits}")
        need(table.dtype is torch.uint8, f"a table of {f.bits} bits must be uint8, got {table.dtype}")
        least = row_bytes(f.bits, f.dim)
        need(_fixed_size(table, 1) >= least, f"expected rows of at least {least} bytes, got {table.shape[1]}")


def _check_jagged(f: Feature, ids: torch.Tensor, offsets: torch.Tensor, weights: torch.Tensor | None) -> None:
    need(f.pooling != 2, "jagged bags must be pooled")
    need(ids.ndim == 1 and offsets.ndim == 1 and offsets.dtype in _INTEGERS, "jagged ids and offsets must be vectors")
    need(0 <= f.segment < f.segments < _MOST_WIDTH, f"segment {f.segment} is not in [0, {f.segments})")
    if weights is not None:
        need(weights.ndim == 1 and weights.is_floating_point(), "weights of jagged ids must be a floating-point vector")
        need(not differ(weights.shape[0], ids.shape[0]), "weights and ids must have the same length")


def _check_fixed(f: Feature, ids: torch.Tensor, weights: torch.Tensor | None) -> None:
    need(ids.ndim >= 1, "ids must have a batch dimension")
    columns = 1
    for axis in range(1, ids.ndim):
        columns *= _fixed_size(ids, axis)
    need(
        0 <= f.length <= columns and 0 <= f.column <= columns - f.length,
        f"{f.length} id columns from column {f.column} on are not within {columns}",
    )
    if weights is not None:
        same = weights.ndim == ids.ndim and not any(map(differ, weights.shape, ids.shape))
        need(
            same and weights.is_floating_point(),
            f"expected floating-point weights {list(ids.shape)}, got {weights.dtype} {list(weights.shape)}",
        )


def check_mlp(
    x: torch.Tensor, params: Sequence[torch.Tensor], layers: Sequence[Layer], width: int | None = None
) -> int:
    """Refuses an MLP chain whose parameters do not fit; returns the width of its output.

    Args:
        x: The input.
        params: The parameters.
        layers: The layers.
        width: Columns of the input, when it is not `x` itself.
    """
    need(bool(layers), "an MLP must have a layer")
    need(x.ndim >= 1 and x.is_floating_point(), f"expected a floating-point input [..., K], got {x.dtype}")
    widths = [_fixed_size(x, x.ndim - 1) if width is None else width]
    for layer in layers:
        n = check_weight(params, layer.weight, widths[-1], layer.bias, layer.scale, layer.factor)
        for at in (layer.gate_scale, layer.gate_shift, layer.norm_weight, layer.norm_bias):
            _check_vector(params, at, n)
        gated = layer.activation in ("dice", "row-dice")
        need(not gated or min(layer.gate_scale, layer.gate_shift) >= 0, "Dice needs gate_scale and gate_shift")
        slope = position(layer.slope, params, "slope", optional=not (gated or layer.activation == "prelu"))
        need(slope is None or slope.numel() in (1, n), f"a slope must have 1 or {n} elements")
        need(slope is None or slope.is_floating_point(), "a slope must be floating point")
        need(-1 <= layer.residual < len(widths), f"residual {layer.residual} is not an earlier layer")
        need(layer.residual < 0 or widths[layer.residual] == n, f"a residual must have {n} columns")
        widths.append(n)
    return widths[-1]


def check_weight(params: Sequence[torch.Tensor], at: int, columns: int, bias: int, scale: int, factor: int = -1) -> int:
    """Refuses a weight that is not [N, columns], a bias or scale that is not [N], and factors that are not [columns]; returns N."""
    weight = position(at, params, "weight")
    need(
        weight.ndim == 2 and weight.dtype in _WEIGHTS,
        f"expected a float32, float64, bfloat16 or int8 matrix as weight, got {weight.dtype} of {weight.ndim} dimensions",
    )
    need(weight.shape[1] == columns, f"expected a weight of {columns} columns, got {list(weight.shape)}")
    n = _fixed_size(weight, 0)
    _check_vector(params, bias, n)
    _check_vector(params, scale, n)
    _check_vector(params, factor, columns)
    need(scale >= 0 or weight.dtype is not torch.int8, "an int8 weight needs scales")
    need(factor < 0 or weight.dtype is torch.int8, f"factors belong to an int8 weight, got {weight.dtype}")
    return n


def _check_vector(params: Sequence[torch.Tensor], at: int, n: int) -> None:
    vector = position(at, params, "vector", optional=True)
    if vector is not None:
        need(tuple(vector.shape) == (n,), f"expected a vector of {n} elements, got {list(vector.shape)}")
        need(vector.is_floating_point(), f"expected a floating-point vector, got {vector.dtype}")


def check_cross(
    x0: torch.Tensor, x: torch.Tensor, params: Sequence[torch.Tensor], layers: Sequence[CrossLayer]
) -> None:
    """Refuses cross layers whose parameters do not fit."""
    need(x.ndim == x0.ndim >= 1 and not any(map(differ, x.shape, x0.shape)), "x0 and x must have the same shape")
    need(
        x.is_floating_point() and x0.is_floating_point(), f"x0 and x must be floating point, got {x0.dtype}, {x.dtype}"
    )
    dim = _fixed_size(x, x.ndim - 1)
    for layer in layers:
        need(layer.kind in (0, 1, 2), f"kind must be 0, 1 or 2, got {layer.kind}")
        if layer.kind == 0:
            weight = position(layer.weight, params, "weight")
            need(
                weight.numel() == dim and weight.is_floating_point(),
                f"expected a floating-point vector of {dim} elements, got {weight.dtype} {list(weight.shape)}",
            )
            _check_vector(params, layer.bias, dim)
            continue
        inner = dim
        if layer.kind == 2:
            inner = check_weight(params, layer.inner, dim, -1, layer.inner_scale, layer.inner_factor)
        rows = check_weight(params, layer.weight, inner, layer.bias, layer.scale, layer.factor)
        need(rows == dim, f"expected a weight of {dim} rows, got {rows}")


def check_attention(
    query: torch.Tensor,
    keys: torch.Tensor,
    mask: torch.Tensor | None,
    params: Sequence[torch.Tensor],
    layers: Sequence[Layer],
    parts: Sequence[int],
    masking: int,
) -> None:
    """Refuses target attention whose query, keys, mask and MLP do not fit."""
    need(
        query.ndim == 2 and keys.ndim == 3,
        f"expected a query [B, D] and keys [B, L, D], got {query.ndim} and {keys.ndim} dimensions",
    )
    need(not differ(query.shape[1], keys.shape[2]), "query and keys must have the same width")
    need(_one_or_same(keys.shape[0], query.shape[0]), "keys must have one row, or as many as the query")
    need(bool(parts) and all(0 <= part < 5 for part in parts), f"parts must be in [0, 5), got {list(parts)}")
    need(0 <= masking <= 3, f"masking must be in [0, 3], got {masking}")
    need(mask is not None or masking == 0, f"masking {masking} needs a mask")
    if mask is not None:
        need(
            mask.ndim == 2 and mask.dtype is torch.bool,
            f"expected a bool mask [B, L], got {mask.dtype} of {mask.ndim} dimensions",
        )
        need(
            _one_or_same(mask.shape[0], query.shape[0]) and not differ(mask.shape[1], keys.shape[1]),
            "a mask must have as many columns as there are keys, and one row or as many as the query",
        )
    width = len(parts) * _fixed_size(query, 1)
    need(check_mlp(query, params, layers, width) == 1, "the MLP must end in one column")


def check_vectors(x: torch.Tensor, prefix: torch.Tensor | None = None) -> None:
    """Refuses an interaction unless its operands are vectors [B, F, D] and, optionally, a prefix [B, P]."""
    need(
        x.ndim == 3 and x.is_floating_point(),
        f"expected floating-point vectors [B, F, D], got {x.dtype} of {x.ndim} dimensions",
    )
    if prefix is not None:
        need(
            prefix.ndim == 2 and prefix.is_floating_point(),
            f"expected a floating-point prefix [B, P], got {prefix.dtype} of {prefix.ndim} dimensions",
        )
        need(not differ(prefix.shape[0], x.shape[0]), "a prefix must have as many rows as the vectors")


def _one_or_same(size: Any, rows: Any) -> bool:
    return (isinstance(size, int) and size == 1) or not differ(size, rows)


def _fixed_size(tensor: torch.Tensor, axis: int) -> int:
    size = tensor.shape[axis]
    need(isinstance(size, int), f"dimension {axis} must be fixed, but it varies")
    return size
