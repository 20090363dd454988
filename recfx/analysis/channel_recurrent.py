"""How labels of channels travel through recurrent layers and cells: a hidden channel has a row in the block of each gate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import fx

from recfx.analysis.batch_axis import held_by
from recfx.analysis.channel_axes import fixed
from recfx.analysis.channel_products import unknown
from recfx.analysis.channel_walk import Axes, Read, Result, Rule, Walk

#: Recurrent layers and cells -> the number of blocks of hidden channels that a weight has along its first axis.
_BLOCKS = {"gru": 3, "gru_cell": 3, "lstm": 4, "lstm_cell": 4, "rnn_tanh": 1, "rnn_relu": 1}


def _blocks(node: fx.Node) -> int:
    return _BLOCKS[node.target._schema.name.removeprefix("aten::")]  # type: ignore[union-attr]


def recurrent(walk: Walk, node: fx.Node) -> Result:
    """Layers over a sequence. Hidden channels of each layer are tied across gates, states and the next layer."""
    arguments: Any = node.args
    x, state, params, has_biases, layers, *_ = arguments
    states = list(state) if isinstance(state, list | tuple) else [state]
    directions, each = (2 if arguments[7] else 1), (4 if has_biases else 2)
    if held_by(x).ndim != 3 or len(params) != layers * directions * each:
        return unknown(walk, node, "it has packed sequences or projections")
    flow, width = walk.axes_of(x)[-1], walk.axes_of(states[0])[-1]
    walk.reduce(node, x, 2, Read.SUM)
    for layer in range(layers):
        ends = []
        for direction in range(directions):
            start = (layer * directions + direction) * each
            hidden = _cell(walk, node, flow, params[start : start + each])
            ends.append(hidden)
            # h_0 and h_n of all layers are one tensor, so that all layers have one set of channels.
            for other in (*(walk.axes_of(s)[-1] for s in states), width):
                walk.tie(node, (hidden,), other)
            width = (hidden,)
        flow = (np.concatenate(ends),) if directions > 1 else (ends[0],)
    axes = [*walk.axes_of(x)[:-1], flow]
    last: list[Axes] = [[*(fixed(size) for size in part.shape[:-1]), width] for part in held_by(node)[1:]]
    return [axes, *last]


def _cell(walk: Walk, node: fx.Node, flow: Any, params: Sequence[Any]) -> Any:
    """Ties the gates of one layer and direction; returns the labels of its hidden channels."""
    from_input, from_hidden, *biases = params
    count = _blocks(node)
    size = held_by(from_hidden).shape[1]
    hidden = walk.labels.fresh(size)
    gates = (np.tile(hidden, count),)
    walk.tie(node, walk.axes_of(from_input)[1], flow)
    walk.tie(node, walk.axes_of(from_hidden)[1], (hidden,))
    for weight in (from_input, from_hidden, *biases):
        if weight is not None:
            walk.tie(node, walk.axes_of(weight)[0], gates)
    walk.reduce(node, from_hidden, 1, Read.COUNT)
    walk.reduce(node, from_input, 1, Read.SUM)
    return hidden


def recurrent_cell(walk: Walk, node: fx.Node) -> Result:
    """One step of a recurrent layer."""
    x, state, *params = node.args
    states: Any = list(state) if isinstance(state, list | tuple) else [state]
    walk.reduce(node, x, len(walk.axes_of(x)) - 1, Read.SUM)
    hidden = _cell(walk, node, walk.axes_of(x)[-1], params)
    for held in states:
        walk.tie(node, walk.axes_of(held)[-1], (hidden,))
    axes = [*walk.axes_of(x)[:-1], (hidden,)]
    return [axes, axes] if isinstance(held_by(node), tuple | list) else axes


#: Rule for each operator, by its name in `torch.ops.aten`.
RECURRENT_LAYERS: dict[str, Rule] = {
    "gru.input lstm.input rnn_tanh.input rnn_relu.input": recurrent,
    "gru_cell lstm_cell rnn_tanh_cell rnn_relu_cell": recurrent_cell,
}
