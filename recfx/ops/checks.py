"""Checks of the operands of the dialect's operators: positions, sizes and dtypes.

Fake kernels call these, so a malformed operator fails wherever shapes are computed, before any kernel reads through it. Messages are
short: the caller adds the node. Sizes that vary are compared as expressions, never as numbers, so that no check fixes a batch.
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
    """The item at a position, None for -1 where that is allowed."""
    if at == -1 and optional:
        return None
    need(0 <= at < len(items), f"{what} {at} of {len(items)}")
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
    need(bool(features) and 0 < width < _MOST_WIDTH, f"{len(features)} features for {width} columns")
    written = []
    batch = None
    for f in features:
        _check_table(position(f.table, tables, "table"), f)
        held, factors = position(f.ids, ids, "ids"), position(f.weights, weights, "weights", optional=True)
        need(held.dtype in _INTEGERS, f"ids of {held.dtype}")
        need(f.pooling in (0, 1, 2) and f.padding >= -1 and abs(f.base) <= _MOST_BASE, "pooling, padding or base")
        if f.length == -1:
            _check_jagged(f, held, position(f.offsets, offsets, "offsets"), factors)
        else:
            _check_fixed(f, held, factors)
            need(batch is None or not differ(batch, held.shape[0]), "ids with different numbers of rows")
            batch = held.shape[0]
        written.append((f.output, f.output + f.columns))
    need(len(copies) % 2 == 0, "copies are pairs")
    for at, column in zip(copies[::2], copies[1::2], strict=True):
        source = position(at, dense, "dense input")
        need(source.ndim == 2 and source.is_floating_point(), f"a dense input {source.dtype} {list(source.shape)}")
        need(batch is None or not differ(batch, source.shape[0]), "a dense input with another number of rows")
        written.append((column, column + _fixed_size(source, 1)))
    edges = [(0, 0), *sorted(written), (width, width)]
    need(all(a[1] == b[0] for a, b in pairwise(edges)), f"columns {sorted(written)} do not cover {width} exactly once")


def _check_table(table: torch.Tensor, f: Feature) -> None:
    need(table.ndim == 2 and 0 < f.dim < _MOST_WIDTH and f.output >= 0, f"a table of {table.ndim} dimensions")
    if f.bits == 32:
        need(
            table.is_floating_point() and table.shape[1] == f.dim,
            f"{table.dtype} {list(table.shape)} as a table of {f.dim}",
        )
    else:
        need(f.bits in ROW_BITS and table.dtype is torch.uint8, f"{table.dtype} as a table of {f.bits} bits")
        need(_fixed_size(table, 1) >= row_bytes(f.bits, f.dim), f"rows of {table.shape[1]} bytes for {f.dim} values")


def _check_jagged(f: Feature, ids: torch.Tensor, offsets: torch.Tensor, weights: torch.Tensor | None) -> None:
    need(f.pooling != 2, "jagged bags side by side")
    need(ids.ndim == 1 and offsets.ndim == 1 and offsets.dtype in _INTEGERS, "jagged ids and offsets are vectors")
    need(0 <= f.segment < f.segments < _MOST_WIDTH, f"segment {f.segment} of {f.segments}")
    need(weights is None or (weights.ndim == 1 and weights.is_floating_point()), "weights of jagged ids are a vector")
    need(weights is None or not differ(weights.shape[0], ids.shape[0]), "weights and ids of different lengths")


def _check_fixed(f: Feature, ids: torch.Tensor, weights: torch.Tensor | None) -> None:
    need(ids.ndim >= 1, "ids without a batch")
    columns = 1
    for axis in range(1, ids.ndim):
        columns *= _fixed_size(ids, axis)
    need(0 <= f.length <= columns and 0 <= f.column <= columns - f.length, f"columns from {f.column} of {columns} ids")
    if weights is not None:
        same = weights.ndim == ids.ndim and not any(map(differ, weights.shape, ids.shape))
        need(
            same and weights.is_floating_point(), f"weights {weights.dtype} {list(weights.shape)} for {list(ids.shape)}"
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
    need(bool(layers) and x.ndim >= 1 and x.is_floating_point(), "no layers, or no floating-point input")
    widths = [_fixed_size(x, x.ndim - 1) if width is None else width]
    for layer in layers:
        n = check_weight(params, layer.weight, widths[-1], layer.bias, layer.scale)
        for at in (layer.gate_scale, layer.gate_shift, layer.norm_weight, layer.norm_bias):
            _check_vector(params, at, n)
        gated = layer.activation in ("dice", "row-dice")
        need(not gated or min(layer.gate_scale, layer.gate_shift) >= 0, "Dice without its gate")
        slope = position(layer.slope, params, "slope", optional=not (gated or layer.activation == "prelu"))
        need(slope is None or slope.numel() in (1, n), "slope of another length")
        need(slope is None or slope.is_floating_point(), "slope of whole numbers")
        need(-1 <= layer.residual < len(widths), f"residual {layer.residual}")
        need(layer.residual < 0 or widths[layer.residual] == n, "residual of another width")
        widths.append(n)
    return widths[-1]


def check_weight(params: Sequence[torch.Tensor], at: int, columns: int, bias: int, scale: int) -> int:
    """Refuses a matrix [N, columns] with a bias and scale of other lengths; returns N."""
    weight = position(at, params, "weight")
    need(weight.ndim == 2 and weight.dtype in _WEIGHTS, f"a weight {weight.dtype} of {weight.ndim} dimensions")
    need(weight.shape[1] == columns, f"a weight {list(weight.shape)} for {columns} columns")
    n = _fixed_size(weight, 0)
    _check_vector(params, bias, n)
    _check_vector(params, scale, n)
    need(scale >= 0 or weight.dtype is not torch.int8, "an int8 weight without scales")
    return n


def _check_vector(params: Sequence[torch.Tensor], at: int, n: int) -> None:
    vector = position(at, params, "vector", optional=True)
    need(vector is None or tuple(vector.shape) == (n,), f"a vector of another size than {n}")
    need(vector is None or vector.is_floating_point(), "a vector of whole numbers")


def check_cross(
    x0: torch.Tensor, x: torch.Tensor, params: Sequence[torch.Tensor], layers: Sequence[CrossLayer]
) -> None:
    """Refuses cross layers whose parameters do not fit."""
    need(x.ndim == x0.ndim >= 1 and not any(map(differ, x.shape, x0.shape)), "x0 and x of different sizes")
    need(x.is_floating_point() and x0.is_floating_point(), "inputs of whole numbers")
    dim = _fixed_size(x, x.ndim - 1)
    for layer in layers:
        need(layer.kind in (0, 1, 2), f"kind {layer.kind}")
        if layer.kind == 0:
            weight = position(layer.weight, params, "weight")
            need(
                weight.numel() == dim and weight.is_floating_point(), f"a vector {list(weight.shape)} for {dim} columns"
            )
            _check_vector(params, layer.bias, dim)
            continue
        inner = dim if layer.kind == 1 else check_weight(params, layer.inner, dim, -1, layer.inner_scale)
        need(check_weight(params, layer.weight, inner, layer.bias, layer.scale) == dim, "a weight of other rows")


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
    need(query.ndim == 2 and keys.ndim == 3, f"query and keys of {query.ndim} and {keys.ndim} dimensions")
    need(not differ(query.shape[1], keys.shape[2]), "query and keys of different widths")
    need(_one_or_same(keys.shape[0], query.shape[0]), "keys of another number of rows")
    need(bool(parts) and all(0 <= part < 5 for part in parts), f"parts {list(parts)}")
    need(0 <= masking <= 3 and (mask is not None or masking == 0), f"masking {masking}")
    if mask is not None:
        need(mask.ndim == 2 and mask.dtype is torch.bool, f"a mask {mask.dtype} of {mask.ndim} dimensions")
        need(
            _one_or_same(mask.shape[0], query.shape[0]) and not differ(mask.shape[1], keys.shape[1]),
            "a mask that does not fit",
        )
    width = len(parts) * _fixed_size(query, 1)
    need(check_mlp(query, params, layers, width) == 1, "the MLP does not end in one column")


def check_vectors(x: torch.Tensor, prefix: torch.Tensor | None = None) -> None:
    """Refuses an interaction unless its operands are vectors [B, F, D] and, optionally, a prefix [B, P]."""
    need(x.ndim == 3 and x.is_floating_point(), f"vectors {x.dtype} of {x.ndim} dimensions")
    if prefix is not None:
        need(prefix.ndim == 2 and prefix.is_floating_point(), f"a prefix of {prefix.ndim} dimensions")
        need(not differ(prefix.shape[0], x.shape[0]), "a prefix of another number of rows")


def _one_or_same(size: Any, rows: Any) -> bool:
    return (isinstance(size, int) and size == 1) or not differ(size, rows)


def _fixed_size(tensor: torch.Tensor, axis: int) -> int:
    size = tensor.shape[axis]
    need(isinstance(size, int), f"dimension {axis} varies")
    return size
