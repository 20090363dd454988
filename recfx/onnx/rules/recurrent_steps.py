"""Recurrent layers step by step, for sequences with infinities, NaN or huge numbers, which ONNX Runtime's own layers replace by others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from recfx.onnx.graph import OnnxGraph
from recfx.onnx.types import code_of

#: Numbers of this magnitude can overflow in a product.
_LARGE = 1e15


def any_odd(graph: OnnxGraph, values: Sequence[str]) -> str:
    """Whether a value holds an infinity, NaN, or a huge number."""
    found = []
    for value in values:
        within = graph.op("LessOrEqual", graph.op("Abs", value), graph.scalar(_LARGE, torch.float32))
        bits = graph.op("Cast", graph.op("Not", within), to=code_of(torch.int32))
        flat = graph.op(
            "Concat",
            graph.op("Reshape", bits, graph.whole(-1)),
            graph.constant(torch.zeros(1, dtype=torch.int32)),
            axis=0,
        )
        found.append(graph.op("ReduceMax", flat, keepdims=0))
    made = found[0]
    for one in found[1:]:
        made = graph.op("Max", made, one)
    return graph.op("Cast", made, to=code_of(torch.bool))


def steps(
    graph: OnnxGraph,
    kind: str,
    x: str,
    given: Sequence[str | None],
    starts: Sequence[str],
    hidden: int,
    directions: int,
    options: Mapping[str, Any],
) -> OnnxGraph:
    """The body of a branch that runs a layer of ONNX step by step.

    Args:
        graph: The graph around it.
        kind: "GRU", "LSTM" or "RNN".
        x: The sequences [time, batch, columns].
        given: Weights of the input, weights of the state, and biases or None, as ONNX has them.
        starts: The first states [directions, batch, hidden].
        hidden: Columns of the state.
        directions: 1 or 2.
        options: Attributes of ONNX's operator.
    """
    body = graph.inner()
    results: list[list[str]] = []
    for direction in range(directions):
        weight, recurrent, bias = (None if one is None else _picked(body, one, direction) for one in given)
        assert weight is not None
        assert recurrent is not None
        gates = body.op("MatMul", x, body.op("Transpose", weight, perm=[1, 0]))
        inner_bias = None
        if bias is not None:
            outer_bias, inner_bias = body.ops("Split", bias, count=2, axis=0, num_outputs=2)
            gates = body.op("Add", gates, outer_bias)
        states = [_picked(body, start, direction) for start in starts]
        step = _step(body, kind, recurrent, inner_bias, hidden, options)
        ends = body.ops(
            "Scan", *states, gates, count=len(states) + 1, body=step, num_scan_inputs=1,
            scan_input_directions=[direction], scan_output_directions=[direction],
        )  # fmt: skip
        results.append(
            [
                body.op("Unsqueeze", ends[-1], body.whole(1)),
                *(body.op("Unsqueeze", end, body.whole(0)) for end in ends[:-1]),
            ]
        )
    made = []
    for axis, parts in zip([1, 0, 0], zip(*results, strict=True), strict=False):
        made.append(parts[0] if directions == 1 else body.op("Concat", *parts, axis=axis))
    body.returns(*made)
    return body


def _picked(graph: OnnxGraph, value: str, direction: int) -> str:
    """The part of a direction."""
    return graph.op("Gather", value, graph.scalar(direction, torch.int64), axis=0)


def _step(
    graph: OnnxGraph, kind: str, recurrent: str, bias: str | None, hidden: int, options: Mapping[str, Any]
) -> Any:
    """The body of one step: the states and the products of the input -> the new states and the output."""
    names = [graph.name("state") for _ in range(2 if kind == "LSTM" else 1)]
    gates = graph.name("gates")
    step = graph.inner([*names, gates])
    state = names[0]
    held = step.op("MatMul", state, step.op("Transpose", recurrent, perm=[1, 0]))
    held = held if bias is None else step.op("Add", held, bias)
    count = {"GRU": 3, "LSTM": 4, "RNN": 1}[kind]
    if kind == "RNN":
        new = step.op(options["activations"][0], step.op("Add", gates, held))
        step.returns(new, step.op("Identity", new))
        return step.as_graph("step")
    widths = step.whole(*[hidden] * count)
    if kind == "GRU":
        (z1, r1, n1), (z2, r2, n2) = (step.ops("Split", one, widths, count=3, axis=-1) for one in (gates, held))
        update, reset = (step.op("Sigmoid", step.op("Add", *pair)) for pair in ((z1, z2), (r1, r2)))
        fresh = step.op("Tanh", step.op("Add", n1, step.op("Mul", reset, n2)))
        new = step.op("Add", fresh, step.op("Mul", update, step.op("Sub", state, fresh)))
        step.returns(new, step.op("Identity", new))
        return step.as_graph("step")
    enter, leave, forget, fresh = step.ops("Split", step.op("Add", gates, held), widths, count=4, axis=-1)
    enter, leave, forget = (step.op("Sigmoid", one) for one in (enter, leave, forget))
    memory = step.op("Add", step.op("Mul", forget, names[1]), step.op("Mul", enter, step.op("Tanh", fresh)))
    new = step.op("Mul", leave, step.op("Tanh", memory))
    step.returns(new, memory, step.op("Identity", new))
    return step.as_graph("step")
