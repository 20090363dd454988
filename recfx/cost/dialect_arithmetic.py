"""Multiply-adds of the operators of the recfx dialect, for backends that have kernels for these operators."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from recfx.ops import attention, cin, cross, hamming, interaction, lookup, mlp, recurrence, recurrent

#: The number of elements of a (possibly fake) tensor.
Count = Callable[[Any], int]


def dialect_multiply_adds(node: fx.Node, elements: Count) -> int | None:
    """The multiply-adds of a node of the dialect; None for any other node.

    Args:
        node: The node.
        elements: Fake tensor -> its number of elements at the requested sizes.
    """
    count = _COUNTS.get(node.target)
    return None if count is None else count(node, elements)


def _held(node: Any) -> torch.Tensor:
    held: torch.Tensor = node.meta["val"]
    return held


def _layers(rows: int, params: Any, layers: list[mlp.Layer]) -> int:
    return sum(rows * math.prod(map(int, _held(params[layer.weight]).shape)) for layer in layers)


def _mlp(node: fx.Node, elements: Count) -> int:
    arguments: Any = node.args
    x, params, ints, numbers = arguments
    held: Any = _held(x)
    return _layers(elements(held) // int(held.shape[-1]), params, mlp.decode(ints, numbers))


def _lookup(node: fx.Node, elements: Count) -> int:
    """Pooled rows are added up; jagged bags are counted as one row each, since their lengths are unknown."""
    numbers: Any = node.args[5]
    held: Any = _held(node)
    rows = elements(held) // int(held.shape[1])
    pooled = [f for f in lookup.decode(numbers) if f.pooling != lookup.NONE and f.length > 1]
    return rows * sum(f.dim * f.length for f in pooled)


def _dots(node: fx.Node, elements: Count) -> int:
    held: Any = _held(node.args[0])
    features, dim = int(held.shape[1]), int(held.shape[2])
    return elements(held) // (features * dim) * interaction.pair_count(features, bool(node.args[2])) * dim


def _cross(node: fx.Node, elements: Count) -> int:
    arguments: Any = node.args
    x, params = arguments[1:3]
    held: Any = _held(x)
    rows, width = elements(held) // int(held.shape[-1]), int(held.shape[-1])
    total = 0
    for layer in cross.decode(*arguments[3:]):
        weights = [p for p in (layer.weight, layer.inner) if p >= 0]
        total += rows * (sum(_held(params[p]).numel() for p in weights) + 2 * width)
    return total


def _cin(node: fx.Node, elements: Count) -> int:
    """A multiplication for each product, and a multiply-add for each product and output."""
    arguments: Any = node.args
    x, params = arguments[1:3]
    (layer,) = mlp.decode(arguments[3], arguments[4])
    weight = _held(params[layer.weight])
    rows = elements(_held(x)) // int(_held(x).shape[1])
    return rows * (weight.numel() + int(weight.shape[1]))


def _attention(node: fx.Node, elements: Count) -> int:
    """The first layer is split into terms. With products of query and keys, one matrix per query, which includes the keys' columns, is
    multiplied by every key. Without products, the keys' term is computed once for all rows that share the keys."""
    arguments: Any = node.args
    query, keys, params, parts, pool = arguments[0], arguments[1], arguments[3], arguments[6], arguments[11]
    shared: Any = keys.args[0] if keys.target is torch.ops.aten.expand.default else keys
    dim, length = int(_held(keys).shape[2]), int(_held(keys).shape[1])
    rows = elements(_held(query)) // dim
    layers = mlp.decode(arguments[4], arguments[5])
    hidden = int(_held(params[layers[0].weight]).shape[0])
    products = attention.PARTS.index("q*k") in parts
    of_keys = rows + rows * length if products else elements(_held(shared)) // dim
    first = (rows + of_keys) * dim * hidden
    return first + _layers(rows * length, params, layers[1:]) + (rows * length * dim if pool else 0)


def _code_dot(node: fx.Node, elements: Count) -> int:
    """One multiply-add for each column and score, for codes of any width."""
    return elements(_held(node)) * int(_held(node.args[0]).shape[1])


def _recurrence(node: fx.Node, elements: Count) -> int:
    """The products of all steps, as if every sequence had its full length."""
    arguments: Any = node.args
    x, params = arguments[0], arguments[4]
    return elements(_held(x)) // int(_held(x).shape[2]) * sum(_held(param).numel() for param in params[:2])


_COUNTS: dict[Any, Callable[[fx.Node, Count], int]] = {
    mlp.mlp: _mlp,
    lookup.grouped_lookup: _lookup,
    interaction.dot_interaction: _dots,
    interaction.fm: lambda node, elements: 2 * elements(_held(node.args[0])),
    cin.cin: _cin,
    cross.cross: _cross,
    hamming.code_dot: _code_dot,
    attention.target_attention: _attention,
    recurrence.recurrence: _recurrence,
    recurrent.attention_gru: lambda node, elements: elements(_held(node)) * int(_held(node.args[3]).shape[0]),
}
