"""Recurrent layers (GRU, LSTM and plain RNN) over sequences of a fixed length.

One step computes all states of a layer in one direction, the input's terms of the gates included.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from recfx.kernels.codes import Cell
from recfx.ops import recurrence, recurrent
from recfx.targets.native.builder import PlanBuilder
from recfx.targets.native.rules.copies import copy
from recfx.targets.native.rules.recurrent_states import (
    LayerWeights,
    Recurrence,
    emit_states,
    even,
    layer_of,
    with_batch,
)
from recfx.targets.native.rules.registry import rule
from recfx.targets.native.rules.view import PART_RULES, PARTS, narrowed
from recfx.targets.native.values import Dim, Unsupported, Value

_aten = torch.ops.aten


#: The longest sequence. The terms of its gates take scratch memory for a few steps, its states for all.
MOST_STEPS = 4096


#: Operator -> its cell, and its number of gates.
_CELLS: dict[Any, tuple[Cell, int]] = {
    _aten.gru.input: (Cell.GRU, 3),
    _aten.lstm.input: (Cell.LSTM, 4),
    _aten.rnn_tanh.input: (Cell.TANH, 1),
    _aten.rnn_relu.input: (Cell.RELU, 1),
}


@rule(*_CELLS)
def _recurrent(builder: PlanBuilder, node: fx.Node) -> None:
    arguments: Any = node.args
    given, first, params, biases, layers, _, train, both_ways, batch_first = arguments
    cell, gates = _CELLS[node.target]
    if train:
        raise Unsupported("it is in training mode")
    weights = _weights(builder, params, bool(biases), layers * (2 if both_ways else 1), gates)
    x = builder.value(given)
    if len(x.dims) != 3 or builder.dtype(x) is not torch.float32:
        raise Unsupported("its input is not a batch of float32 sequences")
    x = x if batch_first else _turned(x)
    if x.dims[1].batch:
        raise Unsupported("its sequence dimension is the batch")
    if x.dims[1].size > MOST_STEPS:
        raise Unsupported(f"it has more than {MOST_STEPS} steps")
    starts = [builder.value(state) for state in (first if isinstance(first, list | tuple) else [first])]
    ends = 2 if cell is Cell.LSTM else 0
    lasts: list[list[Value]] = []
    for layer in range(layers):
        ways = weights[layer * 2 : layer * 2 + 2] if both_ways else weights[layer : layer + 1]
        length, width = x.dims[1].size, ways[0].hidden * len(ways)
        whole = builder.temp((x.dims[0], Dim(length + ends, 0), Dim(width, 1)))
        for way, w in enumerate(ways):
            states = [_without_first(narrowed(start, 0, len(lasts), 1)) for start in starts]
            kind, firsts = layer_of(builder, (cell, gates), w, [*states], x.dims[0], backwards=way == 1)
            place = narrowed(whole, 2, way * w.hidden, w.hidden)
            emit_states(builder, kind, even(builder, x), firsts, narrowed(place, 1, 0, length), ends=ends)
            last = 0 if way == 1 else length - 1
            lasts.append([_without_second(place, at) for at in ([length, length + 1] if ends else [last])])
        x = narrowed(whole, 1, 0, length)
    builder.parts[node] = [x if batch_first else _turned(x), *_stacked(builder, node, lasts)]


def _weights(builder: PlanBuilder, params: Any, biases: bool, count: int, gates: int) -> list[LayerWeights]:
    tensors = [builder.tensor(param) for param in params]
    each = 4 if biases else 2
    if len(tensors) != each * count or any(t.dtype is not torch.float32 for t in tensors):
        raise Unsupported("it has projections, or its weights are not float32")
    groups = [tensors[i : i + each] for i in range(0, len(tensors), each)]
    found = [LayerWeights(group[0], group[1], *(group[2:] if biases else (None, None))) for group in groups]
    if any(w.state.shape[0] != gates * w.hidden for w in found):
        raise Unsupported("it has projections")
    return found


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


@rule(recurrent.attention_gru)
def _attention_gru(builder: PlanBuilder, node: fx.Node) -> None:
    arguments: Any = node.args
    values = [builder.value(argument) for argument in arguments[:3]]
    if any(builder.dtype(v) is not torch.float32 for v in values) or any(d.batch for v in values for d in v.dims[1:]):
        raise Unsupported("its operands are not batches of float32 rows")
    given, attention, state = values
    weight = builder.tensor(arguments[3])
    bias = None if arguments[4] is None else builder.tensor(arguments[4])
    out = builder.result(node)
    batch = out.dims[0]
    kind = Recurrence(Cell.ATTENTION, 3, weight, bias)
    given, state = even(builder, given), even(builder, with_batch(builder, state, batch))
    emit_states(builder, kind, given, [state], out, attention=attention)
    builder.values[node] = out


#: Name of a cell in `recfx::recurrence` -> the cell.
_NAMED = {"gru": Cell.GRU, "lstm": Cell.LSTM, "tanh": Cell.TANH, "relu": Cell.RELU}


@rule(recurrence.recurrence)
def _recurrence(builder: PlanBuilder, node: fx.Node) -> None:
    """One direction of a layer over sequences with lengths."""
    arguments: Any = node.args
    given, lengths, first, memory, params, name, backwards = arguments
    kind = _NAMED[name], recurrence.GATES[name]
    (w,) = _weights(builder, params, len(params) == 4, 1, kind[1])
    x, counts = builder.value(given), builder.value(lengths)
    states = [None if state is None else builder.value(state) for state in (first, memory)]
    held = [x, *(state for state in states if state is not None)]
    if any(builder.dtype(v) is not torch.float32 for v in held) or any(d.batch for v in held for d in v.dims[1:]):
        raise Unsupported("its operands are not batches of float32 rows")
    if counts.dims[0].batch != x.dims[0].batch:
        raise Unsupported("its lengths do not have the batch of its sequences")
    out, length = builder.result(node), x.dims[1].size
    if length > MOST_STEPS:
        raise Unsupported(f"it has more than {MOST_STEPS} steps")
    layer, firsts = layer_of(builder, kind, w, states, x.dims[0], backwards=bool(backwards))
    place, ends = narrowed(out, 1, 0, length), recurrence.ends_of(name)
    emit_states(builder, layer, even(builder, x), firsts, place, lengths=(lengths, counts), ends=ends)
    builder.values[node] = out


def _part(builder: PlanBuilder, node: fx.Node, source: fx.Node, index: int) -> None:
    if source not in builder.parts:
        raise Unsupported(f"{source} is not in the plan")
    builder.values[node] = builder.parts[source][index]


for _target in _CELLS:
    PARTS.add(_target)
    PART_RULES[_target] = _part
