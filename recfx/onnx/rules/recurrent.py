"""Recurrent layers and cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from recfx.onnx.rule import Call, fixed, rule
from recfx.onnx.rules.recurrent_steps import any_odd, steps
from recfx.onnx.types import Untranslated

_aten = torch.ops.aten

#: The gates in torch's order, at their places in ONNX's order.
_GRU, _LSTM, _RNN = (1, 0, 2), (0, 3, 1, 2), (0,)


def _gates(call: Call, value: str, hidden: int, order: Sequence[int]) -> str:
    """A weight or bias with the gates in ONNX's order."""
    graph = call.graph
    if list(order) == [0]:
        return value
    axis = graph.whole(0)
    parts = [
        graph.op("Slice", value, graph.whole(gate * hidden), graph.whole((gate + 1) * hidden), axis) for gate in order
    ]
    return graph.op("Concat", *parts, axis=0)


class _Layers:
    """The layers of a recurrent operator.

    Args:
        call: The operator.
        kind: ONNX's operator.
        order: See `_GRU`.
        options: Attributes of ONNX's operator.
    """

    def __init__(self, call: Call, kind: str, order: Sequence[int], **options: Any) -> None:
        if call["train"] and call["dropout"]:
            raise Untranslated("a recurrent layer in training")
        held = call.fake("input")
        if held.ndim != 3:
            raise Untranslated("a recurrent layer without a batch")
        self.call, self.kind, self.order, self.options = call, kind, order, options
        self.directions = 2 if call["bidirectional"] else 1
        params = list(call["params"])
        self.per = 4 if call["has_biases"] else 2
        self.params = [params[at : at + self.per] for at in range(0, len(params), self.per)]
        weight = self.params[0][1].meta["val"]
        self.hidden = fixed(weight.shape[1], "a recurrent layer")
        if len(self.params) != self.directions * call["num_layers"] or weight.shape[0] != len(order) * self.hidden:
            raise Untranslated("a recurrent layer with projections")

    def run(self, states: Sequence[str]) -> tuple[str, list[str]]:
        """The sequence of the last layer, in torch's layout, and the last states of all layers."""
        call, graph = self.call, self.call.graph
        x = call.tensor("input")
        if call["batch_first"]:
            x = graph.op("Transpose", x, perm=[1, 0, 2])
        last: list[list[str]] = [[] for _ in states]
        for layer in range(call["num_layers"]):
            x, ends = self._layer(x, layer, states)
            for held, end in zip(last, ends, strict=True):
                held.append(end)
        if call["batch_first"]:
            x = graph.op("Transpose", x, perm=[1, 0, 2])
        return x, [held[0] if len(held) == 1 else graph.op("Concat", *held, axis=0) for held in last]

    def _layer(self, x: str, layer: int, states: Sequence[str]) -> tuple[str, list[str]]:
        graph, count = self.call.graph, self.directions
        first = layer * count
        given = [self._weights(first, at) for at in range(2)]
        bias = self._biases(first) if self.per == 4 else None
        starts = [
            graph.op("Slice", state, graph.whole(first), graph.whole(first + count), graph.whole(0))
            if len(self.params) > count else state for state in states
        ]  # fmt: skip
        fast = graph.inner()
        held = fast.ops(
            self.kind, x, *given, bias, None, *starts, count=1 + len(states), hidden_size=self.hidden,
            direction="bidirectional" if count == 2 else "forward", **self.options,
        )  # fmt: skip
        fast.returns(*held)
        exact = steps(graph, self.kind, x, [*given, bias], starts, self.hidden, count, self.options)
        odd = any_odd(graph, [x, *starts, *given, *([] if bias is None else [bias])])
        results = graph.branch(odd, exact, fast, count=1 + len(states))
        joined = graph.op("Transpose", results[0], perm=[0, 2, 1, 3])  # [time, batch, directions, hidden]
        return graph.op("Reshape", joined, graph.whole(0, 0, count * self.hidden)), results[1:]

    def _weights(self, first: int, at: int) -> str:
        parts = [self._part(self.params[first + d][at]) for d in range(self.directions)]
        return self._stacked(parts)

    def _biases(self, first: int) -> str:
        graph, parts = self.call.graph, []
        for direction in range(self.directions):
            both = [self._part(self.params[first + direction][at]) for at in (2, 3)]
            parts.append(graph.op("Concat", *both, axis=0))
        return self._stacked(parts)

    def _part(self, argument: Any) -> str:
        return _gates(self.call, self.call.value(argument), self.hidden, self.order)

    def _stacked(self, parts: Sequence[str]) -> str:
        graph = self.call.graph
        parts = [graph.op("Unsqueeze", part, graph.whole(0)) for part in parts]
        return parts[0] if len(parts) == 1 else graph.op("Concat", *parts, axis=0)


@rule(_aten.gru.input)
def gru(call: Call) -> list[str]:
    """A GRU over sequences of one length."""
    sequence, states = _Layers(call, "GRU", _GRU, linear_before_reset=1).run([call.tensor("hx")])
    return [sequence, *states]


@rule(_aten.lstm.input)
def lstm(call: Call) -> list[str]:
    """An LSTM over sequences of one length."""
    sequence, states = _Layers(call, "LSTM", _LSTM).run([call.value(one) for one in call["hx"]])
    return [sequence, *states]


@rule(_aten.rnn_tanh.input, _aten.rnn_relu.input)
def rnn(call: Call) -> list[str]:
    """A plain recurrent layer over sequences of one length."""
    name = "Tanh" if call.node.target is _aten.rnn_tanh.input else "Relu"
    names = [name] * (2 if call["bidirectional"] else 1)
    sequence, states = _Layers(call, "RNN", _RNN, activations=names).run([call.tensor("hx")])
    return [sequence, *states]


def _products(call: Call, state: str) -> tuple[str, str]:
    """The products of the input and of the state with their weights."""
    graph = call.graph
    biases = [call.optional(name) for name in ("b_ih", "b_hh")]
    sides = ((call.tensor("input"), "w_ih"), (state, "w_hh"))
    made = [
        graph.op("Gemm", x, call.tensor(name), bias, transB=1) for (x, name), bias in zip(sides, biases, strict=True)
    ]
    return made[0], made[1]


@rule(_aten.gru_cell.default)
def gru_cell(call: Call) -> str:
    """One step of a GRU."""
    graph, state = call.graph, call.tensor("hx")
    hidden = fixed(call.fake("w_hh").shape[1], "a recurrent cell")
    if call.fake("input").ndim != 2:
        raise Untranslated("a recurrent cell without a batch")
    sides = [
        graph.ops("Split", one, graph.whole(hidden, hidden, hidden), count=3, axis=1) for one in _products(call, state)
    ]
    (r1, z1, n1), (r2, z2, n2) = sides
    reset = graph.op("Sigmoid", graph.op("Add", r1, r2))
    update = graph.op("Sigmoid", graph.op("Add", z1, z2))
    new = graph.op("Tanh", graph.op("Add", n1, graph.op("Mul", reset, n2)))
    return graph.op("Add", new, graph.op("Mul", update, graph.op("Sub", state, new)))


@rule(_aten.lstm_cell.default)
def lstm_cell(call: Call) -> list[str]:
    """One step of an LSTM."""
    graph = call.graph
    state, memory = (call.value(one) for one in call["hx"])
    hidden = fixed(call.fake("w_hh").shape[1], "a recurrent cell")
    if call.fake("input").ndim != 2:
        raise Untranslated("a recurrent cell without a batch")
    total = graph.op("Add", *_products(call, state))
    gates = graph.ops("Split", total, graph.whole(*[hidden] * 4), count=4, axis=1)
    enter, forget, leave = (graph.op("Sigmoid", gates[at]) for at in (0, 1, 3))
    kept = graph.op("Add", graph.op("Mul", forget, memory), graph.op("Mul", enter, graph.op("Tanh", gates[2])))
    return [graph.op("Mul", leave, graph.op("Tanh", kept)), kept]
