"""Scores of target attention: one step runs all layers of its MLP, with keys along the vector lanes (csrc/key_scores.inl)."""

from __future__ import annotations

import math

import torch
from torch import fx

from recfx.kernels.codes import Kind, Size
from recfx.kernels.slots import (
    KeyScoresFloat,
    KeyScoresInt,
    KeyScoresLayer,
    KeyScoresLayerPointer,
    KeyScoresPointer,
    KeyScoresView,
    TurnKeysView,
)
from recfx.ops import mlp
from recfx.targets.native.builder import PlanBuilder, rows_of, view
from recfx.targets.native.steps import records
from recfx.targets.native.values import Dim, Value

_LANES = 16  # of the widest level
_SET_FLOATS = 64  # rows at a distance that is a multiple of this share few sets of the first-level cache
_PLAIN = frozenset(mlp.ACTIVATIONS) - {"row-dice"}


def takes_layers(builder: PlanBuilder, layers: list[mlp.Layer], params: list[fx.Node], keys: int) -> bool:
    """Whether the step can run the MLP faster than products. Its costs are a matrix for each query, and lanes beyond the last key."""
    return (
        len(layers) <= Size.KEY_LAYERS
        and all(layer.activation in _PLAIN and not layer.norm and layer.residual < 0 for layer in layers)
        and all(builder.tensor(params[layer.weight]).dtype is torch.float32 for layer in layers)
        and _whole(keys) + 1 <= 2 * keys
    )


def emit_key_scores(
    builder: PlanBuilder,
    layers: list[mlp.Layer],
    params: list[fx.Node],
    query: Value,
    keys: Value,
    row: Value,
    of_keys: torch.Tensor,
    of_products: torch.Tensor,
) -> Value:
    """Adds the scores [B, L, 1] of an MLP whose first layer, before its activation, is `of_keys k + of_products (q * k) + row`.

    Args:
        builder: Collects the steps.
        layers: Layers for which `takes_layers` holds; the last has one column.
        params: Their parameters.
        query: [B, D].
        keys: [B, L, D], or one row of them for all.
        row: The first layer's term of the query, with its bias, [B, N].
        of_keys: [N, D].
        of_products: [N, D].
    """
    length, columns = keys.dims[1], keys.dims[2].size
    whole = Dim(_whole(length.size) * columns, 1)
    turned = builder.temp((keys.dims[0], whole))
    run = view(keys, [(length.size, length.stride), (columns, 1)])
    builder.emit(Kind.TURN_KEYS, turned, [(whole.size, 1)], {TurnKeysView.KEYS: run})
    out = builder.temp((query.dims[0], Dim(length.size, 1), Dim(1, 1)))
    weights = [builder.tensor(params[layer.weight]) for layer in layers]
    sizes = [_layer_ints(layer, weight) for layer, weight in zip(layers, weights, strict=True)]
    vectors = [
        {KeyScoresLayerPointer.VECTORS: _vectors(builder, layer, params, weight.shape[0], with_bias=number > 0)}
        for number, (layer, weight) in enumerate(zip(layers, weights, strict=True))
    ]
    for pointers, weight in list(zip(vectors, weights, strict=True))[1:]:
        pointers[KeyScoresLayerPointer.WEIGHT] = _columns_last(builder, weight)
    builder.emit(
        Kind.KEY_SCORES,
        out,
        [(length.size, 1)],
        {
            KeyScoresView.KEYS: view(turned, [(whole.size, 1)]),
            KeyScoresView.QUERY: rows_of(query),
            KeyScoresView.FIRST_BIAS: rows_of(row),
        },
        ints={
            KeyScoresInt.KEYS: length.size,
            KeyScoresInt.COLUMNS: columns,
            KeyScoresInt.LAYER_COUNT: len(layers),
            **records(KeyScoresInt.LAYERS, KeyScoresLayer, sizes),
        },
        floats={KeyScoresFloat.NUMBERS + number: layer.number for number, layer in enumerate(layers)},
        pointers={
            KeyScoresPointer.OF_KEYS: _columns_last(builder, of_keys),
            KeyScoresPointer.OF_PRODUCTS: _columns_last(builder, of_products),
            **records(KeyScoresPointer.LAYERS, KeyScoresLayerPointer, vectors),
        },
    )
    return out


def _layer_ints(layer: mlp.Layer, weight: torch.Tensor) -> dict[int, int]:
    return {
        KeyScoresLayer.OUTPUTS: weight.shape[0],
        KeyScoresLayer.STRIDE: _stride(weight.shape[0]),
        KeyScoresLayer.ACTIVATION: mlp.ACTIVATIONS.index(layer.activation),
    }


def _whole(keys: int) -> int:
    """The number of keys, rounded up to whole vectors of the widest level."""
    return math.ceil(keys / _LANES) * _LANES


def _stride(outputs: int) -> int:
    """Floats from the weights of one input to those of the next."""
    stride = _whole(outputs)
    return stride + _LANES if stride % _SET_FLOATS == 0 else stride


def _columns_last(builder: PlanBuilder, weight: torch.Tensor) -> int:
    """The address of a weight [N, K] as [K, stride], padded with zeros."""

    def turned() -> torch.Tensor:
        whole = torch.zeros(weight.shape[1], _stride(weight.shape[0]), dtype=torch.float32)
        whole[:, : weight.shape[0]] = weight.t()
        return whole

    return builder.packer.once("columns-last", weight, 0, turned)


def _vectors(builder: PlanBuilder, layer: mlp.Layer, params: list[fx.Node], n: int, *, with_bias: bool) -> int:
    """The address of a layer's bias, slope, gate scale and gate shift, one row each."""
    positions = [layer.bias if with_bias else -1, layer.slope, layer.gate_scale, layer.gate_shift]

    def rows() -> torch.Tensor:
        held = torch.zeros(4, _stride(n), dtype=torch.float32)
        for row, position in zip(held, positions, strict=True):
            if position >= 0:
                row[:n] = builder.tensor(params[position]).float().reshape(-1)  # a single number holds for all columns
        return held

    return builder.packer.made(rows)
