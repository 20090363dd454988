"""Row-wise operators, which compute each row of the batch only from the same row of their inputs.

A value can be computed once per request if only row-wise operators lie between the request inputs and it. The table of `axis_maps` gives
the axis of an input along which the rows of a result are read. This module adds further conditions: operators that use the batch size,
that are random, or whose rows are several places wide. An operator outside the table counts as mixing rows.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import sympy
import torch
from torch import fx

from recfx.analysis.axis_maps import Along, axis_of, overloads
from recfx.analysis.batch_axis import Rows, depends_on, held_by
from recfx.ir.op_sets import DROPOUTS, EMBEDDING_BAGS, EXPANSIONS, MATRIX_PRODUCTS, RESHAPES

_aten = torch.ops.aten
_APART = "its operands have their rows along different axes"


def mixes_rows(node: fx.Node, inputs: Mapping[fx.Node, Rows], rows: Rows, batch: sympy.Symbol) -> str | None:
    """The reason why an operator is not row-wise; None when it is row-wise.

    Args:
        node: The operator.
        inputs: Input with rows -> its rows.
        rows: The rows of the result.
        batch: The symbol of the batch.
    """
    target = node.target
    if target not in _SIZED and any(depends_on(held_by(a), batch) for a in node.all_input_nodes):
        return "it computes with the batch size"
    rule = _CONDITIONS.get(target)
    reason = rule(node, inputs, rows) if rule is not None else None
    if reason is not None or target in _WITHOUT_AXES:
        return reason
    for value, own in inputs.items():
        found = axis_of(node, value, rows.axis)
        if found is None:
            return f"{target} is not known to work row by row"
        if not isinstance(found, Along) or found.axis != own.axis:
            return _REASONS.get(target, _APART)
        if own.inner * found.ratio.denominator != rows.inner * found.ratio.numerator:
            return _APART
    return None


def _argument(node: fx.Node, index: int, name: str, default: Any = None) -> Any:
    return node.args[index] if index < len(node.args) else node.kwargs.get(name, default)


_Rule = Callable[[fx.Node, Mapping[fx.Node, Rows], Rows], "str | None"]


def _reshape(node: fx.Node, inputs: Mapping[fx.Node, Rows], rows: Rows) -> str | None:
    """A reshape keeps rows whole if the sizes before their axis keep their product."""
    ((source, own),) = inputs.items()
    before, after = held_by(source).shape[: own.axis], held_by(node).shape[: rows.axis]
    if any(isinstance(s, torch.SymInt) for s in (*before, *after)):
        return "it reshapes a dynamic axis in front of the rows"
    return None if math.prod(before) == math.prod(after) else "it reshapes across rows"


def _expand(node: fx.Node, inputs: Mapping[fx.Node, Rows], rows: Rows) -> str | None:
    if node.args[0] in inputs or rows.inner == 1:
        return None
    return "it repeats several places for each row"


def _factory(node: fx.Node, inputs: Mapping[fx.Node, Rows], rows: Rows) -> str | None:
    filled = [a for a in node.args[1:] if isinstance(a, fx.Node)]  # the sizes are a list, so a node is the fill value
    return "it fills with the batch size" if filled else None


def _batch_norm(node: fx.Node, inputs: Mapping[fx.Node, Rows], rows: Rows) -> str | None:
    if _argument(node, 5, "training") is not False:
        return "the batch norm computes its statistics from the batch"
    return _channels(node, inputs, rows)


def _channels(node: fx.Node, inputs: Mapping[fx.Node, Rows], rows: Rows) -> str | None:
    return None if set(inputs) == {node.args[0]} and rows.axis != 1 else "the rows are its channels"


def _dropout(node: fx.Node, inputs: Mapping[fx.Node, Rows], rows: Rows) -> str | None:
    return "it drops at random" if _argument(node, 2, "train") is not False else None


def _linear(node: fx.Node, inputs: Mapping[fx.Node, Rows], rows: Rows) -> str | None:
    return None if set(inputs) == {node.args[0]} else "its weights have rows"


def _attention(node: fx.Node, inputs: Mapping[fx.Node, Rows], rows: Rows) -> str | None:
    return None if rows.axis < held_by(node).ndim - 2 else "its rows attend to each other"


def _embedding(node: fx.Node, inputs: Mapping[fx.Node, Rows], rows: Rows) -> str | None:
    return "the table has rows of the batch" if node.args[0] in inputs else None


def _one_hot(node: fx.Node, inputs: Mapping[fx.Node, Rows], rows: Rows) -> str | None:
    return None if _argument(node, 1, "num_classes", -1) > 0 else "its width depends on the largest id of the batch"


def _embedding_bag(node: fx.Node, inputs: Mapping[fx.Node, Rows], rows: Rows) -> str | None:
    flat, offsets = node.args[1:3]
    if offsets in inputs or node.args[0] in inputs or not isinstance(flat, fx.Node) or flat not in inputs:
        return "its bags do not all have the same length"
    return None if all(own.axis == 0 and own == inputs[flat] for own in inputs.values()) else "its bags cross rows"


def _gather(node: fx.Node, inputs: Mapping[fx.Node, Rows], rows: Rows) -> str | None:
    return None if len(inputs) == 2 and len({*inputs.values()}) == 1 else "it gathers from other rows"


def _index(node: fx.Node, inputs: Mapping[fx.Node, Rows], rows: Rows) -> str | None:
    """The rows must come from the source, indexed along other axes, or from the indices, but not from both."""
    return "it picks rows" if node.args[0] in inputs and len(inputs) > 1 else None


def _recurrent(node: fx.Node, inputs: Mapping[fx.Node, Rows], rows: Rows) -> str | None:
    return None if _argument(node, 6, "train") is False else "it drops at random"


def _getitem(node: fx.Node, inputs: Mapping[fx.Node, Rows], rows: Rows) -> str | None:
    source: Any = node.args[0]
    if source.target in EMBEDDING_BAGS and node.args[1] != 0:
        return "of the results of embedding_bag, only the sums are row-wise"
    return None


_FACTORIES = overloads("full zeros ones new_full new_zeros new_ones")
_RESHAPES = (*RESHAPES, _aten.unflatten.int)

#: Operators whose sizes may be multiples of the batch.
_SIZED = frozenset((*_RESHAPES, *EXPANSIONS, *_FACTORIES))

#: Operators without an axis map, for which the condition decides: they have no input with rows, or results of several shapes.
_WITHOUT_AXES = frozenset((*_FACTORIES, *EMBEDDING_BAGS, operator.getitem))

_CONDITIONS: dict[Any, _Rule] = {
    **dict.fromkeys(_RESHAPES, _reshape),
    **dict.fromkeys(EXPANSIONS, _expand),
    **dict.fromkeys(_FACTORIES, _factory),
    **dict.fromkeys(EMBEDDING_BAGS, _embedding_bag),
    **dict.fromkeys((_aten.gru.input, _aten.lstm.input), _recurrent),
    _aten.batch_norm.default: _batch_norm,
    _aten.prelu.default: _channels,
    **dict.fromkeys(DROPOUTS, _dropout),
    _aten.scaled_dot_product_attention.default: _attention,
    _aten.linear.default: _linear,
    _aten.embedding.default: _embedding,
    _aten.one_hot.default: _one_hot,
    _aten.gather.default: _gather,
    _aten.index.Tensor: _index,
    operator.getitem: _getitem,
}

_ALONG = """
sum.dim_IntList mean.dim amax amin max.dim min.dim prod.dim_int any.dim all.dim argmax argmin var.correction std.correction logsumexp
softmax.int log_softmax.int _softmax cumsum cumprod flip select.int slice.Tensor narrow sort glu argsort cat unbind.int topk index_select
linalg_vector_norm norm.ScalarOpt_dim roll split.Tensor split_with_sizes split.sizes chunk tensor_split.sections tensor_split.indices
"""

#: Operator -> the reason why it mixes rows, when `axis_maps` does not map the rows of its result to the rows of an input.
_REASONS: dict[Any, str] = {
    **dict.fromkeys(overloads(_ALONG), "it works along the batch"),
    **dict.fromkeys(
        (*MATRIX_PRODUCTS, *overloads("linear addmm baddbmm")), "it sums over the batch, or multiplies rows with rows"
    ),
    **dict.fromkeys(overloads("layer_norm rms_norm"), "it normalises along the batch"),
    **dict.fromkeys(overloads("gru.input lstm.input"), "its rows are the steps of the sequence"),
    **dict.fromkeys(_RESHAPES, "it reshapes across rows"),
    _aten.scaled_dot_product_attention.default: "its rows attend to each other",
    _aten.index.Tensor: "it picks rows",
    _aten.einsum.default: "it sums over the batch, multiplies rows with rows, or does not name every axis",
}
