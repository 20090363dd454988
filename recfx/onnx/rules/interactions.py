"""Pairwise interactions of features."""

from __future__ import annotations

import torch

from recfx.onnx.rule import Call, rule
from recfx.ops import interaction


@rule(interaction.fm)
def fm(call: Call) -> str:
    """((sum of x)^2 - sum of x^2) / 2 over the fields."""
    graph, x = call.graph, call.tensor("x")
    total = graph.op("ReduceSum", x, graph.whole(1), keepdims=0)
    squares = graph.op("ReduceSum", graph.op("Mul", x, x), graph.whole(1), keepdims=0)
    both = graph.op("Sub", graph.op("Mul", total, total), squares)
    made = graph.op("Mul", both, graph.scalar(0.5, call.out.dtype))
    return graph.op("ReduceSum", made, graph.whole(1), keepdims=1) if call["reduce"] else made


@rule(interaction.dot_interaction)
def dot_interaction(call: Call) -> str:
    """The dot products of all pairs of features, as one product and one gather of its triangle."""
    graph, x, features = call.graph, call.tensor("x"), int(call.fake("x").shape[1])
    dots = graph.op("MatMul", x, graph.op("Transpose", x, perm=[0, 2, 1]))
    reach = 0 if call["self_interaction"] else 1
    pairs = [
        i * features + j
        for i in range(features)
        for j in range(features)
        if (j - i if call["upper"] else i - j) >= reach
    ]
    flat = graph.op("Reshape", dots, graph.whole(-1, features * features))
    made = graph.op("Gather", flat, graph.constant(torch.tensor(pairs, dtype=torch.int64)), axis=1)
    return made if call["prefix"] is None else graph.op("Concat", call.tensor("prefix"), made, axis=1)
