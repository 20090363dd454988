"""Target attention (DIN), its first layer split so that keys and query are multiplied once each.

With W's columns for the parts q, k, q-k, k-q, q*k, the first layer of the MLP over their concatenation is

    W x = (W_q + W_(q-k) - W_(k-q)) q + (W_k - W_(q-k) + W_(k-q)) k + W_(q*k) (q * k)

so the concatenation is never built. The first term is one row for all keys. The other two are one product (W_k' + W_(q*k) diag(q)) k with
a matrix made for each query, see `key_scores.py`. Where that does not apply, the second term is computed once if all rows share the keys,
since it does not depend on the query.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import fx

from recfx.kernels.codes import Kind, Op
from recfx.kernels.slots import BmmFloat, BmmView, SoftmaxView
from recfx.ops import attention, mlp
from recfx.targets.native.builder import PlanBuilder, rows_of, view
from recfx.targets.native.rules.copies import copy
from recfx.targets.native.rules.gemm import activation_vectors, emit_gemm, emit_layer, emit_row_dice, even_rows, widened
from recfx.targets.native.rules.key_scores import emit_key_scores, takes_layers
from recfx.targets.native.rules.pointwise import emit_pointwise
from recfx.targets.native.rules.registry import rule
from recfx.targets.native.steps import Operation
from recfx.targets.native.values import Dim, Unsupported, Value

#: Factors of a part's columns in the terms of q, k and q * k.
_TERMS = {"q": (1, 0, 0), "k": (0, 1, 0), "q-k": (1, -1, 0), "k-q": (-1, 1, 0), "q*k": (0, 0, 1)}


@rule(attention.target_attention)
def _target_attention(builder: PlanBuilder, node: fx.Node) -> None:
    arguments: Any = node.args
    query, keys, mask, params, ints, numbers, parts, softmax, scale, masking, fill, pool = arguments
    layers = mlp.decode(ints, numbers)
    if layers[0].norm or layers[0].residual >= 0 or any(layer.residual == 0 for layer in layers):
        raise Unsupported("its first layer has a norm, or its input is added later on")
    q, k = even_rows(builder, query), _shared(builder, even_rows(builder, keys))
    if any(d.batch and d.size != 1 for d in (q.dims[0], k.dims[0])):
        raise Unsupported("it has several queries per batch row")
    scores = _scores(builder, layers, params, q, k, [attention.PARTS[p] for p in parts])
    kept = builder.value(mask) if mask is not None and masking != attention.NO_MASK else None
    weights = _weights(builder, scores, kept, bool(softmax), float(scale), int(masking), float(fill))
    out = builder.result(node, anywhere=True)
    if pool:
        _emit_pooling(builder, weights, k, out)
    else:
        copy(builder, weights, out)
    builder.values[node] = out


def _scores(
    builder: PlanBuilder, layers: list[mlp.Layer], params: list[fx.Node], q: Value, k: Value, parts: list[str]
) -> Value:
    """The score of each key, [B, L]."""
    if not any(_TERMS[part][0] or _TERMS[part][2] for part in parts):
        q = _zeros(builder, q)
    if not any(_TERMS[part][1] or _TERMS[part][2] for part in parts):
        k = _zeros(builder, k)
    split = _split_first(builder, layers[0], params, q, parts)
    if split.of_products is not None and takes_layers(builder, layers, params, k.dims[1].size):
        row = _row_term(builder, layers[0], params, q, split)
        return _without_last(emit_key_scores(builder, layers, params, q, k, row, split.of_keys, split.of_products))
    values = [q, _first_layer(builder, layers[0], params, q, k, split)]
    if layers[0].activation == "row-dice":
        values[1] = builder.temp((raw := values[1]).dims)
        emit_row_dice(builder, layers[0], params, raw, values[1])
    for layer in layers[1:]:
        out = widened(builder, values[-1], builder.tensor(params[layer.weight]).shape[0])
        emit_layer(builder, layer, params, values[-1], out, values[layer.residual] if layer.residual > 0 else None)
        values.append(out)
    return _without_last(values[-1])


def _zeros(builder: PlanBuilder, like: Value) -> Value:
    """Zeros in place of an input that the MLP does not read: NaN times a weight of zero would be NaN."""
    row = builder.constant(torch.zeros(like.dims[-1].size, dtype=torch.float32))
    return Value(row.slot, row.offset, (*(dataclasses.replace(d, stride=0) for d in like.dims[:-1]), *row.dims))


def _shared(builder: PlanBuilder, keys: Value) -> Value:
    """The keys; as one row, if they are one row repeated over the batch."""
    first = keys.dims[0]
    if first.batch and first.size == 1 and builder.slots[keys.slot].once:
        return Value(keys.slot, keys.offset, (Dim(1, 0), *keys.dims[1:]))
    return keys


@dataclasses.dataclass(frozen=True)
class _Split:
    """The first layer's weight, split into the factors of its three terms, each [N, D]."""

    of_query: torch.Tensor
    of_keys: torch.Tensor
    of_products: torch.Tensor | None  # None where the MLP does not read the product


def _split_first(builder: PlanBuilder, layer: mlp.Layer, params: list[fx.Node], q: Value, parts: list[str]) -> _Split:
    weight = builder.tensor(params[layer.weight])
    if weight.dtype is not torch.float32:
        raise Unsupported(f"its weight is {weight.dtype}")
    columns_of = list(zip(parts, torch.split(weight, q.dims[-1].size, 1), strict=True))
    nothing = weight.new_zeros(weight.shape[0], q.dims[-1].size)
    of_query, of_keys, of_products = (
        sum((_TERMS[part][term] * columns for part, columns in columns_of), nothing) for term in range(3)
    )
    return _Split(of_query, of_keys, of_products if "q*k" in parts else None)


def _row_term(builder: PlanBuilder, layer: mlp.Layer, params: list[fx.Node], q: Value, split: _Split) -> Value:
    """The first layer's term of the query, with its bias: [B, N]."""
    row = builder.temp((q.dims[0], Dim(len(split.of_query), 1)))
    bias = builder.tensor(params[layer.bias]) if layer.bias >= 0 else None
    emit_gemm(builder, q, split.of_query, row, bias=bias)
    return row


def _first_layer(
    builder: PlanBuilder, layer: mlp.Layer, params: list[fx.Node], q: Value, k: Value, split: _Split
) -> Value:
    hidden = len(split.of_query)
    lengths = k.dims[1]
    row = _row_term(builder, layer, params, q, split)
    once_a_row = Value(q.slot, q.offset, (q.dims[0], Dim(lengths.size, 0), q.dims[1]))
    row = Value(row.slot, row.offset, (row.dims[0], Dim(lengths.size, 0), row.dims[1]))
    activation: dict[str, Any] = {"sums_first": True}
    if layer.activation != "row-dice":  # that one normalises whole rows, in a separate step
        activation |= {
            "activation": mlp.ACTIVATIONS.index(layer.activation),
            "number": layer.number,
            "vectors": activation_vectors(builder, layer, params, hidden),
        }
    out = builder.temp((q.dims[0], lengths, Dim(hidden, 1)))
    if split.of_products is None:
        emit_gemm(builder, _over_batch(k, q), split.of_keys, out, mul=row, **activation)
        return out
    of_keys = builder.temp((k.dims[0], lengths, Dim(hidden, 1)))
    emit_gemm(builder, k, split.of_keys, of_keys)
    product = builder.temp((q.dims[0], lengths, q.dims[1]))
    emit_pointwise(builder, [once_a_row, k], product, [Operation(Op.MUL, 0, 1)], [])
    emit_gemm(builder, product, split.of_products, out, mul=row, add=_over_batch(of_keys, q), **activation)
    return out


def _over_batch(value: Value, like: Value) -> Value:
    """A value that all rows share, repeated over the batch."""
    first = value.dims[0]
    if first.batch:
        return value
    return Value(value.slot, value.offset, (dataclasses.replace(like.dims[0], stride=0), *value.dims[1:]))


def _without_last(value: Value) -> Value:
    return Value(value.slot, value.offset, value.dims[:-1])


def _weights(
    builder: PlanBuilder, scores: Value, mask: Value | None, softmax: bool, scale: float, masking: int, fill: float
) -> Value:
    operations = [Operation(Op.MUL_C, 0, 0, scale)] if scale != 1.0 else []
    inputs = [scores]
    if mask is not None and masking & attention.FILL:
        inputs.append(mask)
        operations.append(Operation(Op.NOT, 1))
        operations.append(Operation(Op.MASKED_FILL, -len(operations), -1 if scale != 1.0 else 0, fill))
    if operations:
        changed = builder.temp(scores.dims)
        emit_pointwise(builder, inputs, changed, operations, [])
        scores = changed
    if softmax:
        normed = builder.temp(scores.dims)
        builder.emit(Kind.SOFTMAX, normed, rows_of(normed).runs, {SoftmaxView.INPUT: rows_of(scores)})
        scores = normed
    if mask is not None and masking & attention.ZERO:
        kept = builder.temp(scores.dims)
        emit_pointwise(builder, [scores, mask], kept, [Operation(Op.MUL, 0, 1)], [])
        scores = kept
    return scores


def _emit_pooling(builder: PlanBuilder, weights: Value, keys: Value, out: Value) -> None:
    """The weighted sum of the keys: a product of one row with the keys."""
    lengths, d = keys.dims[1:]
    one_row = view(weights, [(1, 0), (1, 0), (weights.dims[-1].size, weights.dims[-1].stride)])
    matrix = view(keys, [(1, 0), (lengths.size, lengths.stride), (d.size, d.stride)])
    views = {BmmView.LEFT: one_row, BmmView.RIGHT: matrix}
    builder.emit(Kind.BMM, out, [(1, 0), (1, 0), (d.size, 1)], views, floats={BmmFloat.FACTOR: 1.0})
