"""The step of a recurrent layer: its packed weights, and the states before the first step."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import fx

from recfx.kernels.codes import Cell, Kind
from recfx.kernels.slots import RecurrentInt, RecurrentPointer, RecurrentView
from recfx.targets.native.builder import PlanBuilder, view
from recfx.targets.native.rules.copies import compact
from recfx.targets.native.steps import View
from recfx.targets.native.values import Dim, Unsupported, Value


@dataclasses.dataclass(frozen=True)
class LayerWeights:
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


def arranged(builder: PlanBuilder, weight: torch.Tensor, gates: int) -> torch.Tensor:
    """The rows of a weight [gates * hidden, ...] with the gates of each vector of hidden units side by side, padded to whole vectors."""
    lanes, hidden, rest = builder.packer.columns // 2, weight.shape[0] // gates, weight.shape[1:]
    vectors = -(-hidden // lanes)
    held = torch.zeros(gates, vectors * lanes, *rest, dtype=torch.float32, device=weight.device)
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
    states: Sequence[Value | None],
    out: Value,
    *,
    attention: Value | None = None,
    lengths: tuple[fx.Node, Value] | None = None,
    ends: int = 0,
) -> None:
    """Adds the step that computes the states [B, L, hidden].

    Args:
        builder: The plan.
        kind: The cell and its weights.
        given: The input [B, L, input], or its term of the gates [B, L, gates * hidden], with contiguous columns.
        states: The state before the first step [B, hidden], and an LSTM's memory; None for zeros.
        out: The place of the states. With `ends`, the places behind them get the last states.
        attention: [B, L], for a GRU with attention.
        lengths: The node and the value [B] of the lengths of the sequences; without it, all have L steps.
        ends: 1 for the last state, 2 for the last memory of an LSTM as well.
    """
    steps, hidden = out.dims[1], out.dims[2].size
    views: dict[int, View] = {RecurrentView.GIVEN: view(given, _runs(given))}
    for name, state in zip((RecurrentView.STATE, RecurrentView.MEMORY), states, strict=False):
        if state is not None:
            views[name] = view(state, _runs(state))
    if attention is not None:
        views[RecurrentView.ATTENTION] = view(attention, _runs(attention))
    if lengths is not None:
        views[RecurrentView.LENGTHS] = view(lengths[1], _runs(lengths[1]))
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
            RecurrentInt.INPUTS: given.dims[2].size,
            RecurrentInt.ENDS: ends,
        },
        pointers=kind.pointers(builder),
        reads=None if lengths is None else lengths[0],
    )


def _runs(value: Value) -> list[tuple[int, int]]:
    return [(d.size, d.stride) for d in value.dims]


def is_zero(builder: PlanBuilder, state: Value) -> bool:
    """Whether a state is a constant of zeros, whose products with the weights need not be computed."""
    data = builder.slots[state.slot].data
    return data is not None and data.device.type == "cpu" and not bool(data.count_nonzero())


def with_batch(builder: PlanBuilder, state: Value, batch: Dim) -> Value:
    """The state as [B, hidden]. A state that all batch rows share is broadcast."""
    if state.batched or not batch.batch:
        return state
    row = state.dims[1]
    if builder.slots[state.slot].data is None or row.stride not in (0, 1):
        raise Unsupported("its first state is neither a constant nor one row per batch row")
    return Value(state.slot, state.offset, (Dim(batch.size, 0, True), row))


def even(builder: PlanBuilder, value: Value) -> Value:
    """The value with contiguous columns, copied if necessary."""
    last = value.dims[-1]
    return value if last.stride == 1 or last.size == 1 else compact(builder, value)


def layer_of(
    builder: PlanBuilder,
    kind: tuple[Cell, int],
    w: LayerWeights,
    given: list[Value | None],
    batch: Dim,
    *,
    backwards: bool,
) -> tuple[Recurrence, list[Value | None]]:
    """One direction of one layer, and its first states as `emit_states` takes them.

    Args:
        builder: The plan.
        kind: The cell, and its number of gates.
        w: The weights.
        given: The first state, and an LSTM's first memory; None for zeros.
        batch: The dimension of the sequences.
        backwards: Whether the last step comes first.
    """
    cell, gates = kind
    bias = w.state_bias[2 * w.hidden :] if w.state_bias is not None and cell is Cell.GRU else None
    recurrence = Recurrence(cell, gates, w.state, bias, w.x, w.given_bias(cell), backwards)
    states = [None if s is None or is_zero(builder, s) else even(builder, with_batch(builder, s, batch)) for s in given]
    if states[0] is None and not (builder.dry or bool(w.state.isfinite().all())):
        # Products of zeros with infinite weights are NaN, so they are not skipped.
        row = builder.constant(torch.zeros(w.hidden, dtype=torch.float32, device="cpu"))
        states[0] = Value(row.slot, row.offset, (Dim(batch.size, 0, batch.batch), *row.dims))
    return recurrence, states
