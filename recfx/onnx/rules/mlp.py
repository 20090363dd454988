"""Chains of linear layers in every number format, and cross layers and target attention, which are made of them.

An int8 layer quantises its input row by row, multiplies whole numbers by `MatMulInteger`, and scales the result. Rows with infinities or
NaN are multiplied in float32 by a branch that runs only where such rows exist.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from recfx.onnx.rule import Call, fake_of, rule
from recfx.onnx.rules.functions import gelu_of, silu_of
from recfx.onnx.rules.layers import normalized
from recfx.onnx.rules.products import linear_of
from recfx.onnx.rules.whole_products import whole_product
from recfx.onnx.sizes import reshape_like
from recfx.onnx.types import code_of
from recfx.ops import attention, cin, cross, mlp

_F32 = torch.float32


def product(
    call: Call,
    x: str,
    held: torch.Tensor,
    weight: Any,
    bias: str | None,
    scale: Any = None,
    input_scale: float = 0.0,
    factor: str | None = None,
) -> str:
    """x W^T + b with a weight of any format; see `recfx.ops.mlp.product`.

    Args:
        call: The operator.
        x: The value of x.
        held: A tensor with the sizes of x.
        weight: The node of the weight.
        bias: The value of the bias.
        scale: The node of the weight's scales, of an int8 weight.
        input_scale: A calibrated scale, or 0.
        factor: The value of the factors of x, of an int8 weight.
    """
    graph, kind = call.graph, fake_of(weight).dtype
    if kind is _F32:
        return linear_of(call, x, held, call.value(weight), bias)
    if kind is torch.bfloat16:
        rounded = graph.op("Cast", graph.op("Cast", x, to=code_of(torch.bfloat16)), to=code_of(_F32))
        return linear_of(call, rounded, held, graph.op("Cast", call.value(weight), to=code_of(_F32)), bias)
    x = x if factor is None else graph.op("Mul", x, factor)
    flat = x if held.ndim == 2 else graph.op("Reshape", x, graph.whole(-1, int(held.shape[-1])))
    made = whole_product(call, flat, call.value(weight), call.value(scale), input_scale)
    if bias is not None:
        made = graph.op("Add", made, bias)
    return made if held.ndim == 2 else reshape_like(call, made, held, _widened(held, fake_of(weight).shape[0]).shape)


def _widened(held: torch.Tensor, width: Any) -> torch.Tensor:
    """A fake tensor of the sizes of another one, except the last."""
    return held.new_empty((*held.shape[:-1], width))


def _activated(call: Call, y: str, layer: mlp.Layer, params: Sequence[str]) -> str:
    """The layer's activation."""
    graph = call.graph
    match layer.activation:
        case "none":
            return y
        case "relu" | "sigmoid" | "tanh":
            return graph.op(layer.activation.capitalize(), y)
        case "gelu" | "gelu-tanh":
            return gelu_of(call, y, "tanh" if layer.activation == "gelu-tanh" else "none")
        case "silu":
            return silu_of(call, y)
        case "leaky-relu":
            return graph.op("LeakyRelu", y, alpha=float(layer.number))
        case "prelu":
            return graph.op("PRelu", y, params[layer.slope])
    if layer.activation == "row-dice":
        mean = graph.op(
            "LayerNormalization", y, params[layer.gate_scale], params[layer.gate_shift], epsilon=layer.number
        )
        gate = graph.op("Sigmoid", mean)
    else:
        scaled = graph.op("Add", graph.op("Mul", y, params[layer.gate_scale]), params[layer.gate_shift])
        gate = graph.op("Sigmoid", scaled)
    rest = graph.op("Mul", graph.op("Sub", graph.scalar(1, _F32), gate), graph.op("Mul", params[layer.slope], y))
    return graph.op("Add", graph.op("Mul", gate, y), rest)


def chain(call: Call, x: str, held: torch.Tensor, layers: Sequence[mlp.Layer]) -> str:
    """The result of a chain of layers on a value with the sizes of `held`."""
    nodes: list[Any] = list(call["params"])
    params = [call.value(node) for node in nodes]
    values = [x]
    for layer in layers:
        bias, factor = (params[at] if at >= 0 else None for at in (layer.bias, layer.factor))
        scale = nodes[layer.scale] if layer.scale >= 0 else None
        y = product(call, values[-1], held, nodes[layer.weight], bias, scale, layer.input_scale, factor)
        width = int(fake_of(nodes[layer.weight]).shape[0])
        held = _widened(held, width)
        if layer.norm:
            gains = [params[at] if at >= 0 else None for at in (layer.norm_weight, layer.norm_bias)]
            y = normalized(call, y, [width], gains[0], gains[1], layer.norm_eps, _F32)
        y = _activated(call, y, layer, params)
        values.append(y if layer.residual < 0 else call.graph.op("Add", y, values[layer.residual]))
    return values[-1]


@rule(mlp.mlp)
def mlp_(call: Call) -> str:
    """A chain of linear layers."""
    return chain(call, call.tensor("x"), call.fake("x"), mlp.decode(call["layers"], call["numbers"]))


@rule(cross.cross)
def cross_(call: Call) -> str:
    """Cross layers."""
    graph, nodes = call.graph, list(call["params"])
    x0, x, held = call.tensor("x0"), call.tensor("x"), call.fake("x")
    for layer in cross.decode(call["layers"], call["numbers"]):
        bias, factor, inner_factor = (
            call.value(nodes[at]) if at >= 0 else None for at in (layer.bias, layer.factor, layer.inner_factor)
        )
        scale, inner_scale = (nodes[at] if at >= 0 else None for at in (layer.scale, layer.inner_scale))
        weight = nodes[layer.weight]
        if layer.kind == cross.VECTOR:
            column = graph.op("Reshape", call.value(weight), graph.whole(-1, 1))
            step = graph.op("Mul", x0, graph.op("MatMul", x, column))
            x = graph.op("Add", step if bias is None else graph.op("Add", step, bias), x)
            continue
        inner, between = x, held
        if layer.kind == cross.LOW_RANK:
            scales = (inner_scale, layer.inner_input_scale)
            inner = product(call, x, held, nodes[layer.inner], None, *scales, inner_factor)
            between = _widened(held, fake_of(nodes[layer.inner]).shape[0])
        made = product(call, inner, between, weight, bias, scale, layer.input_scale, factor)
        x = graph.op("Add", graph.op("Mul", x0, made), x)
    return x


@rule(cin.cin)
def cin_(call: Call) -> str:
    """A layer of a compressed interaction network: all products of maps and fields, and a linear layer over them."""
    graph, x0, x = call.graph, call.fake("x0"), call.fake("x")
    maps, fields, dim = int(x.shape[1]), int(x0.shape[1]), int(x.shape[2])
    sides = (
        graph.op("Unsqueeze", call.tensor("x"), graph.whole(2)),
        graph.op("Unsqueeze", call.tensor("x0"), graph.whole(1)),
    )
    outer = graph.op("Reshape", graph.op("Mul", *sides), graph.whole(-1, maps * fields, dim))
    if call["triangle"]:
        positions = torch.tensor(cin.triangle_positions(fields), dtype=torch.int64)
        outer = graph.op("Gather", outer, graph.constant(positions), axis=1)
    columns = graph.op("Transpose", outer, perm=[0, 2, 1])
    count = cin.product_count(maps, fields, call["triangle"])
    held = x.new_empty((x.shape[0], dim, count))
    made = chain(call, columns, held, mlp.decode(call["layers"], call["numbers"]))
    return graph.op("Transpose", made, perm=[0, 2, 1])


def _part(call: Call, number: int, query: str, keys: str) -> str:
    """One part of the input of the MLP of target attention."""
    graph = call.graph
    match attention.PARTS[number]:
        case "q":
            return query
        case "k":
            return keys
        case "q-k":
            return graph.op("Sub", query, keys)
        case "k-q":
            return graph.op("Sub", keys, query)
    return graph.op("Mul", query, keys)


@rule(attention.target_attention)
def target_attention(call: Call) -> str:
    """The weights that an MLP of the candidate and each past item gives, or the weighted sum of the items."""
    graph, query, keys = call.graph, call.fake("query"), call.fake("keys")
    length, dim = int(keys.shape[1]), int(keys.shape[2])
    shape = graph.op(
        "Concat", graph.op("Shape", call.tensor("query"), start=0, end=1), graph.whole(length, dim), axis=0
    )
    queries = graph.op("Expand", graph.op("Unsqueeze", call.tensor("query"), graph.whole(1)), shape)
    rows = graph.op("Expand", call.tensor("keys"), shape)
    parts = [_part(call, number, queries, rows) for number in call["parts"]]
    x = parts[0] if len(parts) == 1 else graph.op("Concat", *parts, axis=2)
    held = query.new_empty((query.shape[0], length, dim * len(parts)))
    scores = chain(call, x, held, mlp.decode(call["layers"], call["numbers"]))
    weights = graph.op("Squeeze", scores, graph.whole(2))
    if call["scale"] != 1:
        weights = graph.op("Mul", weights, graph.scalar(call["scale"], _F32))
    mask = call.optional("mask")
    if mask is not None and call["masking"] & attention.FILL:
        weights = graph.op("Where", mask, weights, graph.scalar(call["fill"], _F32))
    if call["softmax"]:
        weights = graph.op("Softmax", weights, axis=1)
    if mask is not None and call["masking"] & attention.ZERO:
        weights = graph.op("Mul", weights, call.cast(mask, torch.bool, _F32))
    if not call["pool"]:
        return weights
    pooled = graph.op("MatMul", graph.op("Unsqueeze", weights, graph.whole(1)), rows)
    return graph.op("Squeeze", pooled, graph.whole(1))
