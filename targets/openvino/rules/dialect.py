"""Operators of the recfx dialect, built from operators of OpenVINO by the formulas of their references (`recfx/ops`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from recfx.ops import attention, cross, interaction, mlp
from recfx.targets.openvino.rules import elementwise
from recfx.targets.openvino.rules.reductions import normalized, probabilities
from recfx.targets.openvino.rules.registry import Unsupported, rule

_FLOAT = torch.float32
_LEVELS = 127.0


def _weights(b: Any, position: int = 1) -> Sequence[Any]:
    """The nodes of the parameters."""
    nodes: Sequence[Any] = b.node.args[position]
    return nodes


def _optional(params: Sequence[Any], at: int) -> Any:
    return params[at] if at >= 0 else None


def _product(
    b: Any,
    x: Any,
    nodes: Sequence[Any],
    params: Sequence[Any],
    weight: int,
    bias: int,
    scale: int,
    input_scale: float,
    factor: int,
) -> Any:
    """x W^T + b, with the rounding of the weight's format; see `recfx/ops/mlp.py`."""
    kind, matrix = b.dtype_of(nodes[weight]), params[weight]
    if kind is torch.bfloat16:
        x = b.op.convert(b.op.convert(x, "bf16"), "f32")
    if factor >= 0:
        x = b.op.multiply(x, params[factor])
    integers = kind is torch.int8
    made = (
        _integer_product(b, x, matrix, params[scale], input_scale) if integers else b.op.matmul(x, matrix, False, True)
    )
    return made if bias < 0 else b.op.add(made, params[bias])


def _integer_product(b: Any, x: Any, codes: Any, scale: Any, input_scale: float) -> Any:
    """A product of 8-bit integers. OpenVINO recognises the quantised input and the codes and multiplies integers."""
    if input_scale <= 0:
        raise Unsupported("rows that are quantised by a scale of their own")
    low, high = b.number(-_LEVELS * input_scale), b.number(_LEVELS * input_scale)
    rounded = b.op.fake_quantize(x, low, high, low, high, 255)
    matrix = b.op.multiply(b.op.convert(codes, "f32"), b.op.unsqueeze(scale, b.integers([1])))
    # Integers have no NaN: rows with infinities or NaN become NaN.
    away = b.op.reduce_sum(b.op.subtract(x, x), b.integers([-1]), True)
    return b.op.add(b.op.matmul(rounded, matrix, False, True), away)


def _gated(b: Any, y: Any, gate: Any, slope: Any) -> Any:
    """gate * y + (1 - gate) * slope * y."""
    rest = b.op.multiply(b.op.multiply(b.op.subtract(b.number(1.0), gate), slope), y)
    return b.op.add(b.op.multiply(gate, y), rest)


def _activated(b: Any, y: Any, layer: mlp.Layer, params: Sequence[Any]) -> Any:
    simple: dict[str, Any] = {
        "none": lambda: y,
        "relu": lambda: elementwise.rectified(b, y),
        "gelu": lambda: b.op.gelu(y, "ERF"),
        "gelu-tanh": lambda: b.op.gelu(y, "TANH"),
        "silu": lambda: b.op.swish(y),
        "sigmoid": lambda: b.op.sigmoid(y),
        "tanh": lambda: b.op.tanh(y),
        "leaky-relu": lambda: elementwise.leaky_relu(b, y, layer.number),
    }
    if layer.activation in simple:
        return simple[layer.activation]()
    slope = params[layer.slope]
    if layer.activation == "prelu":
        return b.op.select(b.op.less(b.number(0.0), y), y, b.op.multiply(y, slope))
    if layer.activation == "row-dice":
        shape = (params[layer.gate_scale], params[layer.gate_shift])
        return _gated(b, y, b.op.sigmoid(normalized(b, y, 1, *shape, layer.number)), slope)
    inner = b.op.add(b.op.multiply(y, params[layer.gate_scale]), params[layer.gate_shift])
    return _gated(b, y, b.op.sigmoid(inner), slope)


def _chain(
    b: Any, x: Any, nodes: Sequence[Any], params: Sequence[Any], ints: Sequence[int], numbers: Sequence[float]
) -> Any:
    values = [x]
    for layer in mlp.decode(ints, numbers):
        places = (layer.weight, layer.bias, layer.scale)
        y = _product(b, values[-1], nodes, params, *places, layer.input_scale, layer.factor)
        if layer.norm:
            shape = (_optional(params, layer.norm_weight), _optional(params, layer.norm_bias))
            y = normalized(b, y, 1, *shape, layer.norm_eps)
        y = _activated(b, y, layer, params)
        values.append(y if layer.residual < 0 else b.op.add(y, values[layer.residual]))
    return values[-1]


@rule(mlp.mlp, formats=True)
def _mlp(b: Any, x: Any, params: Sequence[Any], layers: Sequence[int], numbers: Sequence[float]) -> Any:
    return _chain(b, x, _weights(b), params, layers, numbers)


@rule(cross.cross, formats=True)
def _cross(b: Any, x0: Any, x: Any, params: Sequence[Any], layers: Sequence[int], numbers: Sequence[float] = ()) -> Any:
    nodes = _weights(b, 2)
    for layer in cross.decode(layers, numbers):
        if layer.kind == cross.VECTOR:
            column = b.op.reshape(params[layer.weight], b.integers([1, -1]), False)
            step = b.op.multiply(x0, b.op.matmul(x, column, False, True))
            step = step if layer.bias < 0 else b.op.add(step, params[layer.bias])
        else:
            inner = x
            if layer.kind == cross.LOW_RANK:
                places = (layer.inner, -1, layer.inner_scale)
                inner = _product(b, x, nodes, params, *places, layer.inner_input_scale, layer.inner_factor)
            places = (layer.weight, layer.bias, layer.scale)
            made = _product(b, inner, nodes, params, *places, layer.input_scale, layer.factor)
            step = b.op.multiply(x0, made)
        x = b.op.add(step, x)
    return x


@rule(interaction.dot_interaction)
def _dot_interaction(b: Any, x: Any, prefix: Any, self_interaction: bool, upper: bool) -> Any:
    features = b.size_of(b.node.args[0], 1)
    if not isinstance(features, int):
        raise Unsupported("a free number of features")
    reach = 0 if self_interaction else 1
    pairs = [(i, j) for i in range(features) for j in range(features) if (j - i if upper else i - j) >= reach]
    dots = b.op.reshape(b.op.matmul(x, x, False, True), b.integers([-1, features * features]), False)
    chosen = b.op.gather(dots, b.integers([i * features + j for i, j in pairs]), b.number(1, torch.int64))
    return chosen if prefix is None else b.op.concat([prefix, chosen], 1)


@rule(interaction.fm)
def _fm(b: Any, x: Any, reduce: bool) -> Any:
    fields, one = b.integers([1]), b.integers([1])
    total = b.op.reduce_sum(x, fields, False)
    squares = b.op.reduce_sum(b.op.multiply(x, x), fields, False)
    term = b.op.multiply(b.op.subtract(b.op.multiply(total, total), squares), b.number(0.5))
    return b.op.reduce_sum(term, one, True) if reduce else term


@rule(attention.target_attention, formats=True)
def _target_attention(
    b: Any,
    query: Any,
    keys: Any,
    mask: Any,
    params: Sequence[Any],
    layers: Sequence[int],
    numbers: Sequence[float],
    parts: Sequence[int],
    softmax: bool,
    scale: float,
    masking: int,
    fill: float,
    pool: bool,
) -> Any:
    length = b.size_of(b.node.args[1], 1)
    if not isinstance(length, int):
        raise Unsupported("a free length")
    rows = keys
    if b.size_of(b.node.args[1], 0) == 1:  # all rows share the keys
        rows = b.op.tile(keys, b.size_vector([b.size_of(b.node.args[0], 0), 1, 1]))
    wide = b.op.tile(b.op.unsqueeze(query, b.integers([1])), b.integers([1, length, 1]))
    made = (
        lambda: wide,
        lambda: rows,
        lambda: b.op.subtract(wide, rows),
        lambda: b.op.subtract(rows, wide),
        lambda: b.op.multiply(wide, rows),
    )
    given = b.op.concat([made[part]() for part in parts], 2)
    scores = b.op.squeeze(_chain(b, given, _weights(b, 3), params, layers, numbers), b.integers([2]))
    if scale != 1.0:
        scores = b.op.multiply(scores, b.number(scale))
    if mask is not None and masking & attention.FILL:
        scores = b.op.select(mask, scores, b.number(fill))
    if softmax:
        scores = probabilities(b, scores, 1)
    if mask is not None and masking & attention.ZERO:
        scores = b.op.multiply(scores, b.cast(mask, _FLOAT))
    if not pool:
        return scores
    return b.op.squeeze(b.op.matmul(b.op.unsqueeze(scores, b.integers([1])), rows, False, False), b.integers([1]))
