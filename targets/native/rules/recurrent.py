"""Recurrent layers (GRU, LSTM and plain RNN) over sequences of a fixed length, unrolled step by step.

One product computes the input's term of all gates for a chunk of the sequence. Each step then multiplies the state and computes the gates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from recfx.kernels.codes import Act, Op
from recfx.targets.native.builder import PlanBuilder, rows_of
from recfx.targets.native.rules.copies import compact, copy
from recfx.targets.native.rules.gemm import emit_gemm
from recfx.targets.native.rules.pointwise import emit_pointwise
from recfx.targets.native.rules.registry import rule
from recfx.targets.native.rules.view import PART_RULES, PARTS, narrowed
from recfx.targets.native.steps import Operation
from recfx.targets.native.values import Dim, Unsupported, Value

_aten = torch.ops.aten


#: The largest number of steps of all layers and directions together. torch runs longer sequences, whose arithmetic outweighs its calls.
MOST_STEPS = 512

#: Gate elements of a chunk: enough steps for a product of several rows, few enough to fit in the cache with those of the other batch rows.
CHUNK = 4096


@dataclasses.dataclass(frozen=True)
class _Weights:
    """One direction of one layer.

    Attributes:
        x: The input's weight [gates * hidden, input].
        state: The state's weight [gates * hidden, hidden].
        x_bias: The input's bias, or None.
        state_bias: The state's bias, or None.
    """

    x: torch.Tensor
    state: torch.Tensor
    x_bias: torch.Tensor | None
    state_bias: torch.Tensor | None

    @property
    def hidden(self) -> int:
        """The width of the state."""
        return self.state.shape[1]

    def summed_bias(self) -> torch.Tensor | None:
        """The sum of both biases, for cells that need only the sum."""
        if self.x_bias is None or self.state_bias is None:
            return None
        return self.x_bias + self.state_bias


#: `(builder, weights, input's term of the gates, states, place of the new hidden state) -> new states`; the hidden state is the first.
_Cell = Callable[[PlanBuilder, _Weights, Value, list[Value], Value], list[Value]]


def _gru(builder: PlanBuilder, w: _Weights, given: Value, states: list[Value], out: Value) -> list[Value]:
    """new = tanh(x_n + r * h_n); state = (1 - z) * new + z * state."""
    held = builder.temp(given.dims)
    emit_gemm(builder, states[0], w.state, held, bias=w.state_bias)
    r, z, n = range(3)
    inputs = [*(_gate(given, i, w) for i in (r, z, n)), *(_gate(held, i, w) for i in (r, z, n)), states[0]]
    operations = [
        Operation(Op.ADD, 0, 3),
        Operation(Op.SIGMOID, -1),
        Operation(Op.MUL, -2, 5),
        Operation(Op.ADD, 2, -3),
        Operation(Op.TANH, -4),
        Operation(Op.ADD, 1, 4),
        Operation(Op.SIGMOID, -6),
        Operation(Op.SUB, 6, -5),
        Operation(Op.MUL, -7, -8),
        Operation(Op.ADD, -5, -9),
    ]
    emit_pointwise(builder, inputs, out, operations, [])
    return [out]


def _lstm(builder: PlanBuilder, w: _Weights, given: Value, states: list[Value], out: Value) -> list[Value]:
    """cell = f * cell + i * g; state = o * tanh(cell)."""
    gates = builder.temp(given.dims)
    emit_gemm(builder, states[0], w.state, gates, add=given)
    i, f, g, o = (_gate(gates, number, w) for number in range(4))
    cell = builder.temp(out.dims)
    operations = [
        Operation(Op.SIGMOID, 0),
        Operation(Op.TANH, 2),
        Operation(Op.MUL, -1, -2),
        Operation(Op.SIGMOID, 1),
        Operation(Op.MUL, -4, 3),
        Operation(Op.ADD, -5, -3),
    ]
    emit_pointwise(builder, [i, f, g, states[1]], cell, operations, [])
    emit_pointwise(
        builder, [o, cell], out, [Operation(Op.SIGMOID, 0), Operation(Op.TANH, 1), Operation(Op.MUL, -1, -2)], []
    )
    return [out, cell]


def _plain(activation: int) -> _Cell:
    def cell(builder: PlanBuilder, w: _Weights, given: Value, states: list[Value], out: Value) -> list[Value]:
        emit_gemm(builder, states[0], w.state, out, add=given, activation=activation, sums_first=True)
        return [out]

    return cell


def _gate(value: Value, number: int, w: _Weights) -> Value:
    return narrowed(value, len(value.dims) - 1, number * w.hidden, w.hidden)


_CELLS: dict[Any, tuple[_Cell, int, bool]] = {
    _aten.gru.input: (_gru, 3, False),
    _aten.lstm.input: (_lstm, 4, True),
    _aten.rnn_tanh.input: (_plain(Act.TANH), 1, True),
    _aten.rnn_relu.input: (_plain(Act.RELU), 1, True),
}


@rule(*_CELLS)
def _recurrent(builder: PlanBuilder, node: fx.Node) -> None:
    arguments: Any = node.args
    given, first, params, biases, layers, _, train, both_ways, batch_first = arguments
    cell, gates, joined = _CELLS[node.target]
    if train:
        raise Unsupported("it is in training mode")
    weights = _weights(builder, params, bool(biases), layers * (2 if both_ways else 1), gates)
    x = builder.value(given)
    if len(x.dims) != 3 or builder.dtype(x) is not torch.float32:
        raise Unsupported("its input is not a batch of float32 sequences")
    x = x if batch_first else _turned(x)
    if x.dims[1].batch:
        raise Unsupported("its sequence dimension is the batch")
    if x.dims[1].size * len(weights) > MOST_STEPS:
        raise Unsupported(f"it has more than {MOST_STEPS} steps")
    starts = [builder.value(state) for state in (first if isinstance(first, list | tuple) else [first])]
    lasts: list[list[Value]] = []
    for layer in range(layers):
        ways = weights[layer * 2 : layer * 2 + 2] if both_ways else weights[layer : layer + 1]
        out = builder.temp((*x.dims[:2], Dim(ways[0].hidden * len(ways), 1)))
        for way, w in enumerate(ways):
            states = [_without_first(narrowed(start, 0, len(lasts), 1)) for start in starts]
            place = narrowed(out, 2, way * w.hidden, w.hidden)
            lasts.append(_run(builder, (cell, joined), w, x, states, place, backwards=way == 1))
        x = out
    builder.parts[node] = [x if batch_first else _turned(x), *_stacked(builder, node, lasts)]


def _weights(builder: PlanBuilder, params: Any, biases: bool, count: int, gates: int) -> list[_Weights]:
    tensors = [builder.tensor(param) for param in params]
    each = 4 if biases else 2
    if len(tensors) != each * count or any(t.dtype is not torch.float32 for t in tensors):
        raise Unsupported("it has projections, or its weights are not float32")
    groups = [tensors[i : i + each] for i in range(0, len(tensors), each)]
    found = [_Weights(group[0], group[1], *(group[2:] if biases else (None, None))) for group in groups]
    if any(w.state.shape[0] != gates * w.hidden for w in found):
        raise Unsupported("it has projections")
    return found


def _run(
    builder: PlanBuilder,
    kind: tuple[_Cell, bool],
    w: _Weights,
    x: Value,
    states: list[Value],
    out: Value,
    *,
    backwards: bool,
) -> list[Value]:
    """Adds one direction of one layer, [B, L, input] -> `out` [B, L, hidden]. Returns the states after the last step."""
    cell, joined = kind
    length, width = x.dims[1].size, w.x.shape[0]
    chunk = max(1, CHUNK // width)
    states = [_even(builder, _with_batch(builder, state, x.dims[0])) for state in states]
    starts = range(0, length, chunk)
    for start in reversed(starts) if backwards else starts:
        part = narrowed(x, 1, start, min(chunk, length - start))
        given = builder.temp((*part.dims[:2], Dim(width, 1)))
        emit_gemm(builder, _even(builder, part), w.x, given, bias=w.summed_bias() if joined else w.x_bias)
        steps = range(part.dims[1].size)
        for step in reversed(steps) if backwards else steps:
            states = cell(builder, w, _without_second(given, step), states, _without_second(out, start + step))
    return states


def _stacked(builder: PlanBuilder, node: fx.Node, lasts: list[list[Value]]) -> list[Value]:
    """The last states of all layers and directions: [layers, B, hidden] for each kind that has a reader."""
    read = {user.args[1] for user in node.users}
    found = []
    for number, states in enumerate(zip(*lasts, strict=True)):
        if number + 1 not in read or len(states) == 1:
            held = states[0]
            found.append(Value(held.slot, held.offset, (Dim(1, 0), *held.dims)))
            continue
        whole = builder.temp((states[0].dims[0], Dim(len(states), 0), states[0].dims[1]))
        for i, state in enumerate(states):
            copy(builder, state, _without_second(whole, i))
        found.append(_turned(whole))
    return found


def _turned(value: Value) -> Value:
    return Value(value.slot, value.offset, (value.dims[1], value.dims[0], *value.dims[2:]))


def _without_first(value: Value) -> Value:
    return Value(value.slot, value.offset, value.dims[1:])


def _without_second(value: Value, index: int) -> Value:
    part = narrowed(value, 1, index, 1)
    return Value(part.slot, part.offset, (part.dims[0], *part.dims[2:]))


def _with_batch(builder: PlanBuilder, state: Value, batch: Dim) -> Value:
    """The state as [B, hidden]. A state that all batch rows share is broadcast."""
    if state.batched or not batch.batch:
        return state
    row = state.dims[1]
    if builder.slots[state.slot].data is None or row.stride not in (0, 1):
        raise Unsupported("its first state is neither a constant nor one row per batch row")
    return Value(state.slot, state.offset, (Dim(batch.size, 0, True), row))


def _even(builder: PlanBuilder, value: Value) -> Value:
    try:
        rows_of(value)
    except Unsupported:
        return compact(builder, value)
    return value


def _part(builder: PlanBuilder, node: fx.Node, source: fx.Node, index: int) -> None:
    if source not in builder.parts:
        raise Unsupported(f"{source} is not in the plan")
    builder.values[node] = builder.parts[source][index]


for _target in _CELLS:
    PARTS.add(_target)
    PART_RULES[_target] = _part
