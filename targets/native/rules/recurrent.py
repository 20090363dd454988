"""Recurrent layers (GRU, LSTM and plain RNN) over sequences of a fixed length.

One step computes all states of a layer in one direction, the input's terms of the gates included.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import fx

from recfx.kernels.codes import Cell, Kind
from recfx.kernels.slots import RecurrentInt, RecurrentPointer, RecurrentView
from recfx.ops import recurrent
from recfx.targets.native.builder import PlanBuilder, view
from recfx.targets.native.rules.copies import compact, copy
from recfx.targets.native.rules.registry import rule
from recfx.targets.native.rules.view import PART_RULES, PARTS, narrowed
from recfx.targets.native.steps import View
from recfx.targets.native.values import Dim, Unsupported, Value

_aten = torch.ops.aten


#: The longest sequence. The terms of its gates take scratch memory for a few steps, its states for all.
MOST_STEPS = 4096


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

    def given_bias(self, cell: Cell) -> torch.Tensor | None:
        """The bias of the input's term: the sum of both, but for a GRU's candidate, whose reset gate multiplies the state's bias."""
        if self.x_bias is None or self.state_bias is None:
            return None
        if cell is not Cell.GRU:
            return self.x_bias + self.state_bias
        gates = 2 * self.hidden
        return torch.cat([self.x_bias[:gates] + self.state_bias[:gates], self.x_bias[gates:]])


#: Operator -> its cell, and its number of gates.
_CELLS: dict[Any, tuple[Cell, int]] = {
    _aten.gru.input: (Cell.GRU, 3),
    _aten.lstm.input: (Cell.LSTM, 4),
    _aten.rnn_tanh.input: (Cell.TANH, 1),
    _aten.rnn_relu.input: (Cell.RELU, 1),
}


def arranged(builder: PlanBuilder, weight: torch.Tensor, gates: int) -> torch.Tensor:
    """The rows of a weight [gates * hidden, ...] with the gates of each vector of hidden units side by side, padded to whole vectors."""
    lanes, hidden, rest = builder.packer.columns // 2, weight.shape[0] // gates, weight.shape[1:]
    vectors = -(-hidden // lanes)
    held = torch.zeros(gates, vectors * lanes, *rest, dtype=torch.float32)
    held[:, :hidden] = weight.detach().float().reshape(gates, hidden, *rest)
    return held.reshape(gates, vectors, lanes, *rest).transpose(0, 1).reshape(-1, *rest).contiguous()


def packed_gates(builder: PlanBuilder, weight: torch.Tensor, gates: int) -> int:
    """The address of a packed weight whose rows are `arranged`."""
    return builder.packer.once("gates", weight, gates, lambda: builder.packer.pack(arranged(builder, weight, gates)))


@dataclasses.dataclass(frozen=True)
class Recurrence:
    """The states over the steps of a sequence.

    Attributes:
        cell: The cell.
        gates: Its number of gates.
        weight: The state's weight [gates * hidden, hidden].
        bias: The state's bias of a GRU's candidate, or None.
        input_weight: The input's weight [gates * hidden, input], or None if the input's term of the gates is given.
        input_bias: The bias of the input's term, or None.
        backwards: Whether the last step comes first.
    """

    cell: Cell
    gates: int
    weight: torch.Tensor
    bias: torch.Tensor | None
    input_weight: torch.Tensor | None = None
    input_bias: torch.Tensor | None = None
    backwards: bool = False

    def pointers(self, builder: PlanBuilder) -> dict[int, int]:
        """The addresses of its weights and biases by pointer of the step."""
        found: dict[int, int] = {RecurrentPointer.WEIGHT: packed_gates(builder, self.weight, self.gates)}
        if self.bias is not None:
            found[RecurrentPointer.BIAS] = builder.packer.vector(self.bias, self.bias.numel())
        if self.input_weight is not None:
            found[RecurrentPointer.INPUT_WEIGHT] = packed_gates(builder, self.input_weight, self.gates)
            if self.input_bias is not None:
                columns = (
                    -(-self.weight.shape[1] // (builder.packer.columns // 2)) * builder.packer.columns // 2 * self.gates
                )
                bias = arranged(builder, self.input_bias, self.gates)
                found[RecurrentPointer.INPUT_BIAS] = builder.packer.vector(bias, columns)
        return found


def emit_states(
    builder: PlanBuilder,
    kind: Recurrence,
    given: Value,
    states: list[Value],
    out: Value,
    *,
    memory_at: int = 0,
    attention: Value | None = None,
) -> None:
    """Adds the step that computes the states [B, L, hidden].

    Args:
        builder: The plan.
        kind: The cell and its weights.
        given: The input [B, L, input], or its term of the gates [B, L, gates * hidden], with contiguous columns.
        states: The state before the first step [B, hidden], and an LSTM's memory. Without them, both are zeros.
        out: The place of the states.
        memory_at: The distance from a state to the memory after the same step.
        attention: [B, L], for a GRU with attention.
    """
    steps, hidden = out.dims[1], out.dims[2].size
    views: dict[int, View] = {RecurrentView.GIVEN: view(given, _runs(given))}
    for name, state in zip((RecurrentView.STATE, RecurrentView.MEMORY), states, strict=False):
        views[name] = view(state, _runs(state))
    if attention is not None:
        views[RecurrentView.ATTENTION] = view(attention, _runs(attention))
    builder.emit(
        Kind.RECURRENT,
        out,
        _runs(out),
        views,
        ints={
            RecurrentInt.CELL: kind.cell,
            RecurrentInt.STEPS: steps.size,
            RecurrentInt.HIDDEN: hidden,
            RecurrentInt.BACKWARDS: int(kind.backwards),
            RecurrentInt.MEMORY_AT: memory_at,
            RecurrentInt.INPUTS: given.dims[2].size,
        },
        pointers=kind.pointers(builder),
    )


def _runs(value: Value) -> list[tuple[int, int]]:
    return [(d.size, d.stride) for d in value.dims]


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
    lasts: list[list[Value]] = []
    for layer in range(layers):
        ways = weights[layer * 2 : layer * 2 + 2] if both_ways else weights[layer : layer + 1]
        width = ways[0].hidden * len(ways)
        whole = builder.temp((*x.dims[:2], Dim(width * len(starts), 1)))
        for way, w in enumerate(ways):
            states = [_without_first(narrowed(start, 0, len(lasts), 1)) for start in starts]
            places = [narrowed(whole, 2, n * width + way * w.hidden, w.hidden) for n in range(len(starts))]
            lasts.append(_run(builder, (cell, gates), w, x, states, places, backwards=way == 1))
        x = narrowed(whole, 2, 0, width)
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
    kind: tuple[Cell, int],
    w: _Weights,
    x: Value,
    states: list[Value],
    places: list[Value],
    *,
    backwards: bool,
) -> list[Value]:
    """Adds one direction of one layer, [B, L, input] -> [B, L, hidden]; the places are those of states and memories.

    Returns the states after the last step.
    """
    cell, gates = kind
    bias = w.state_bias[2 * w.hidden :] if w.state_bias is not None and cell is Cell.GRU else None
    recurrence = Recurrence(cell, gates, w.state, bias, w.x, w.given_bias(cell), backwards)
    if all(_is_zero(builder, state) for state in states) and (builder.dry or bool(w.state.isfinite().all())):
        states = []
    states = [_even(builder, _with_batch(builder, state, x.dims[0])) for state in states]
    emit_states(
        builder, recurrence, _even(builder, x), states, places[0], memory_at=places[-1].offset - places[0].offset
    )
    last = 0 if backwards else x.dims[1].size - 1
    return [_without_second(place, last) for place in places]


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


def _is_zero(builder: PlanBuilder, state: Value) -> bool:
    """Whether a state is a constant of zeros, whose products with the weights need not be computed."""
    data = builder.slots[state.slot].data
    return data is not None and data.device.type == "cpu" and not bool(data.count_nonzero())


def _with_batch(builder: PlanBuilder, state: Value, batch: Dim) -> Value:
    """The state as [B, hidden]. A state that all batch rows share is broadcast."""
    if state.batched or not batch.batch:
        return state
    row = state.dims[1]
    if builder.slots[state.slot].data is None or row.stride not in (0, 1):
        raise Unsupported("its first state is neither a constant nor one row per batch row")
    return Value(state.slot, state.offset, (Dim(batch.size, 0, True), row))


def _even(builder: PlanBuilder, value: Value) -> Value:
    """The value with contiguous columns, copied if necessary."""
    last = value.dims[-1]
    return value if last.stride == 1 or last.size == 1 else compact(builder, value)


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
    given, state = _even(builder, given), _even(builder, _with_batch(builder, state, batch))
    emit_states(builder, kind, given, [state], out, attention=attention)
    builder.values[node] = out


def _part(builder: PlanBuilder, node: fx.Node, source: fx.Node, index: int) -> None:
    if source not in builder.parts:
        raise Unsupported(f"{source} is not in the plan")
    builder.values[node] = builder.parts[source][index]


for _target in _CELLS:
    PARTS.add(_target)
    PART_RULES[_target] = _part
