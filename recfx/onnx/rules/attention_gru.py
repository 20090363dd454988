"""The recurrence of a GRU whose update gate is scaled by attention, as a loop over its steps.

Written out, a history of a hundred steps would be a thousand operators, which take seconds to translate and are slower than the loop.
"""

from __future__ import annotations

import torch

from recfx.onnx.graph import OnnxGraph
from recfx.onnx.rule import Call, fixed, rule
from recfx.onnx.types import Untranslated
from recfx.ops import recurrent


@rule(recurrent.attention_gru)
def attention_gru(call: Call) -> str:
    """The states of all steps, [B, L, H]; see `recfx.ops.recurrent`."""
    graph = call.graph
    if call.out.dtype is not torch.float32:
        raise Untranslated("a recurrence in another type than float32")
    hidden = fixed(call.fake("weight").shape[1], "a recurrence")
    gates = graph.op("Transpose", call.tensor("given"), perm=[1, 0, 2])
    attention = graph.op("Unsqueeze", graph.op("Transpose", call.tensor("attention"), perm=[1, 0]), graph.whole(2))
    weight = graph.op("Transpose", call.tensor("weight"), perm=[1, 0])
    step = _step(graph, weight, call.optional("bias"), hidden)
    states = graph.ops("Scan", call.tensor("state"), gates, attention, count=2, body=step, num_scan_inputs=2)[1]
    return graph.op("Transpose", states, perm=[1, 0, 2])


def _step(graph: OnnxGraph, weight: str, bias: str | None, hidden: int) -> object:
    """The body of the loop: the state, the input's term of the gates and the attention -> the new state, twice."""
    state, gates, attention = (graph.name(name) for name in ("state", "gates", "attention"))
    step = graph.inner([state, gates, attention])
    widths = step.whole(hidden, hidden, hidden)
    reset_i, update_i, candidate_i = step.ops("Split", gates, widths, count=3, axis=-1)
    held = step.op("MatMul", state, weight)
    reset_h, update_h, candidate_h = step.ops("Split", held, widths, count=3, axis=-1)
    candidate_h = candidate_h if bias is None else step.op("Add", candidate_h, bias)
    reset = step.op("Sigmoid", step.op("Add", reset_i, reset_h))
    candidate = step.op("Tanh", step.op("Add", candidate_i, step.op("Mul", reset, candidate_h)))
    update = step.op("Mul", attention, step.op("Sigmoid", step.op("Add", update_i, update_h)))
    kept = step.op("Mul", step.op("Sub", step.scalar(1.0, torch.float32), update), state)
    new = step.op("Add", kept, step.op("Mul", update, candidate))
    step.returns(new, step.op("Identity", new))
    return step.as_graph("step")
