"""Row-wise operators: those that compute each row of the batch from the same row of their inputs, and from nothing else.

What depends on one row per request can run once per request exactly where every operator on the way is row-wise. The table below says for
each operator when it is; an operator that is not in the table counts as one that mixes rows.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import sympy
import torch
from torch import fx

from recfx.analysis.batch_axis import Rows, depends_on, held_by
from recfx.ir.op_sets import ADDED_PRODUCTS, EMBEDDING_BAGS

_aten = torch.ops.aten


def mixes_rows(node: fx.Node, inputs: Mapping[fx.Node, Rows], rows: Rows, batch: sympy.Symbol) -> str | None:
    """Why an operator is not row-wise; None when it is.

    Args:
        node: The operator.
        inputs: Those of its inputs that have rows.
        rows: The rows of its result.
        batch: The symbol of the batch.
    """
    rule = _RULES.get(node.target)
    if rule is None and _is_pointwise(node):
        rule = _pointwise
    if rule is None:
        return f"{node.target} is not known to work row by row"
    if rule not in (_reshape, _expand, _factory) and any(depends_on(held_by(a), batch) for a in node.all_input_nodes):
        return "it computes with the batch size"
    return rule(node, inputs, rows)


def _argument(node: fx.Node, index: int, name: str, default: Any = None) -> Any:
    return node.args[index] if index < len(node.args) else node.kwargs.get(name, default)


def _ndim(node: Any) -> int:
    held = held_by(node)
    assert isinstance(held, torch.Tensor)
    return held.ndim


def _is_pointwise(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and torch.Tag.pointwise in node.target.tags


def _pointwise(node: fx.Node, inputs: Mapping[fx.Node, Rows], rows: Rows) -> str | None:
    for value, own in inputs.items():
        if own.axis + _ndim(node) - _ndim(value) != rows.axis or own.inner != rows.inner:
            return "its operands have their rows along different axes"
    return None


def _moves(node: fx.Node, inputs: Mapping[fx.Node, Rows], rows: Rows) -> str | None:
    """Permutations and axes of size one: the only axis with the batch is where the rows went."""
    return None


def _reshape(node: fx.Node, inputs: Mapping[fx.Node, Rows], rows: Rows) -> str | None:
    """Rows stay whole when the places before their axis are as many as before."""
    ((source, own),) = inputs.items()
    before, after = held_by(source).shape[: own.axis], held_by(node).shape[: rows.axis]
    if any(isinstance(s, torch.SymInt) for s in (*before, *after)):
        return "it reshapes an axis of varying size that comes before the rows"
    return None if math.prod(before) == math.prod(after) else "it reshapes across rows"


def _expand(node: fx.Node, inputs: Mapping[fx.Node, Rows], rows: Rows) -> str | None:
    source: Any = node.args[0]
    if source in inputs:
        return _pointwise(node, {source: inputs[source]}, rows)
    return None if rows.inner == 1 else "it repeats several places for each row"


def _factory(node: fx.Node, inputs: Mapping[fx.Node, Rows], rows: Rows) -> str | None:
    filled = [a for a in node.args[1:] if isinstance(a, fx.Node)]  # sizes come in a list
    return "it fills in the batch size" if filled else None


def _along(position: int, name: str, default: Any = None) -> Any:
    """An operator along one or several dimensions (all when none is given), none of which may be that of the rows."""

    def rule(node: fx.Node, inputs: Mapping[fx.Node, Rows], rows: Rows) -> str | None:
        dims = _argument(node, position, name, default)
        dims = [dims] if isinstance(dims, int) else dims
        if not dims:
            return "it works along all dimensions, the batch among them"
        for value, own in inputs.items():
            if any(dim % _ndim(value) == own.axis for dim in dims):
                return "it works along the batch"
        axes = {own.axis for own in inputs.values()}
        return None if len(axes) == 1 else "its operands have their rows along different axes"

    return rule


def _stack(node: fx.Node, inputs: Mapping[fx.Node, Rows], rows: Rows) -> str | None:
    dim = _argument(node, 1, "dim", 0) % _ndim(node)
    axes = {own.axis + (dim <= own.axis) for own in inputs.values()}
    return None if axes == {rows.axis} else "its operands have their rows along different axes"


def _norm(node: fx.Node, inputs: Mapping[fx.Node, Rows], rows: Rows) -> str | None:
    shape: Any = node.args[1]
    return None if rows.axis < _ndim(node) - len(shape) else "it normalises along the batch"


def _batch_norm(node: fx.Node, inputs: Mapping[fx.Node, Rows], rows: Rows) -> str | None:
    if _argument(node, 5, "training") is not False:
        return "the batch norm takes its statistics from the batch"
    return _channels(node, inputs, rows)


def _channels(node: fx.Node, inputs: Mapping[fx.Node, Rows], rows: Rows) -> str | None:
    return None if set(inputs) == {node.args[0]} and rows.axis != 1 else "the rows are its channels"


def _dropout(node: fx.Node, inputs: Mapping[fx.Node, Rows], rows: Rows) -> str | None:
    return "it drops at random" if _argument(node, 2, "train") is not False else None


def _linear(node: fx.Node, inputs: Mapping[fx.Node, Rows], rows: Rows) -> str | None:
    if set(inputs) != {node.args[0]}:
        return "its weights have rows"
    return None if rows.axis < _ndim(node) - 1 else "it sums over the batch"


def _matmul(node: fx.Node, inputs: Mapping[fx.Node, Rows], rows: Rows) -> str | None:
    first, second = node.args[-2:] if node.target in ADDED_PRODUCTS else node.args[:2]
    for value, own in inputs.items():
        if value is not first and value is not second:
            continue
        depth = own.axis - _ndim(value)  # from the right: -1 and -2 are the matrix
        if depth >= -2 and inputs.keys() >= {first, second}:
            return "it multiplies rows with rows"
        summed = -1 if value is first else (-2 if _ndim(value) > 1 else -1)
        if depth == summed or first is second:
            return "it sums over the batch"
        if depth < -2 and own.axis + _ndim(node) - _ndim(value) != rows.axis:
            return "its operands have their rows along different axes"
    if len({own.inner for own in inputs.values()}) > 1:
        return "its operands have their rows along different axes"
    added = [v for v in inputs if v is not first and v is not second]
    return _pointwise(node, {v: inputs[v] for v in added}, rows)


def _batched(node: fx.Node, inputs: Mapping[fx.Node, Rows], rows: Rows) -> str | None:
    """Products of stacks of matrices and attention, whose stack axes come first."""
    if any(own.axis >= _ndim(value) - 2 or _ndim(value) != _ndim(node) for value, own in inputs.items()):
        return _matmul(node, inputs, rows) if node.target is _aten.bmm.default else "its rows are attended to"
    return _pointwise(node, inputs, rows)


def _embedding(node: fx.Node, inputs: Mapping[fx.Node, Rows], rows: Rows) -> str | None:
    return "the table has rows of the batch" if node.args[0] in inputs else None


def _one_hot(node: fx.Node, inputs: Mapping[fx.Node, Rows], rows: Rows) -> str | None:
    return None if _argument(node, 1, "num_classes", -1) > 0 else "its width is the largest id of the batch"


def _embedding_bag(node: fx.Node, inputs: Mapping[fx.Node, Rows], rows: Rows) -> str | None:
    flat, offsets = node.args[1:3]
    if offsets in inputs or node.args[0] in inputs or not isinstance(flat, fx.Node) or flat not in inputs:
        return "its bags are not all of one length"
    return None if all(own.axis == 0 and own == inputs[flat] for own in inputs.values()) else "its bags cross rows"


def _gather(node: fx.Node, inputs: Mapping[fx.Node, Rows], rows: Rows) -> str | None:
    return None if len(inputs) == 2 and len({*inputs.values()}) == 1 else "it gathers from rows that are not its own"


def _index(node: fx.Node, inputs: Mapping[fx.Node, Rows], rows: Rows) -> str | None:
    source: Any
    picks: Any
    source, picks = node.args[:2]
    given = [i for i, pick in enumerate(picks) if pick is not None]
    if given != list(range(given[0], given[-1] + 1)):
        return "its indices are not side by side"
    indexed = [v for v in inputs if v is not source]
    if source in inputs:
        own = inputs[source]
        return "it picks rows" if own.axis in given or indexed else None
    widest = max(_ndim(picks[i]) for i in given)
    shifts = {inputs[v].axis + widest - _ndim(v) + given[0] for v in indexed}
    return None if shifts == {rows.axis} else "its indices have their rows along different axes"


def _index_select(node: fx.Node, inputs: Mapping[fx.Node, Rows], rows: Rows) -> str | None:
    if node.args[0] in inputs:
        refused: str | None = _along(1, "dim", 0)(node, inputs, rows)
        return refused
    return None if node.args[1] == rows.axis else "its ids have their rows along another axis"


def _einsum(node: fx.Node, inputs: Mapping[fx.Node, Rows], rows: Rows) -> str | None:
    equation: Any
    operands: Any
    equation, operands = node.args[:2]
    terms, arrow, result = equation.replace(" ", "").partition("->")
    if not arrow or "." in equation:
        return "its equation does not name every axis"
    letters = {
        term[inputs[value].axis] for term, value in zip(terms.split(","), operands, strict=True) if value in inputs
    }
    return None if letters == {result[rows.axis]} else "it sums over the batch, or multiplies rows with rows"


def _recurrent(node: fx.Node, inputs: Mapping[fx.Node, Rows], rows: Rows) -> str | None:
    batch_first = _argument(node, 8, "batch_first")
    want = {node.args[0]: 0 if batch_first else 1}
    states = node.args[1] if isinstance(node.args[1], tuple | list) else [node.args[1]]
    want.update(dict.fromkeys(states, 1))
    if held_by(node.args[0]).ndim != 3 or any(want.get(value) != own.axis for value, own in inputs.items()):
        return "its rows are its steps"
    return None if _argument(node, 6, "train") is False else "it drops at random"


def _getitem(node: fx.Node, inputs: Mapping[fx.Node, Rows], rows: Rows) -> str | None:
    source: Any = node.args[0]
    return "only the sums of a bag are row by row" if source.target in EMBEDDING_BAGS and node.args[1] != 0 else None


_Rule = Callable[[fx.Node, Mapping[fx.Node, Rows], Rows], "str | None"]


def _overloads(names: str) -> list[Any]:
    """Operators by name: `"add.Tensor relu"` are `aten.add.Tensor` and `aten.relu.default`."""
    return [
        getattr(getattr(_aten, name.partition(".")[0]), name.partition(".")[2] or "default") for name in names.split()
    ]


_TABLE: dict[str, _Rule] = {
    "to.dtype to.device to.dtype_layout _to_copy type_as contiguous clone alias detach lift_fresh_copy": _pointwise,
    "__and__.Tensor __or__.Tensor __xor__.Tensor masked_fill.Tensor zeros_like ones_like": _pointwise,
    "unsqueeze squeeze.dim squeeze.dims permute transpose.int swapaxes movedim.int movedim.intlist t mT numpy_T": _moves,
    "reshape view _unsafe_view flatten.using_ints unflatten.int": _reshape,
    "expand expand_as repeat": _expand,
    "full zeros ones new_full new_zeros new_ones": _factory,
    "sum.dim_IntList mean.dim amax amin max.dim min.dim prod.dim_int any.dim all.dim argmax argmin": _along(1, "dim"),
    "var.correction std.correction logsumexp softmax.int log_softmax.int _softmax cumsum cumprod": _along(1, "dim"),
    "flip select.int slice.Tensor narrow": _along(1, "dim"),
    "sort glu argsort": _along(1, "dim", -1),
    "cat unbind.int": _along(1, "dim", 0),
    "topk": _along(2, "dim", -1),
    "linalg_vector_norm norm.ScalarOpt_dim roll": _along(2, "dim"),
    "split.Tensor split_with_sizes split.sizes chunk": _along(2, "dim", 0),
    "stack": _stack,
    "layer_norm rms_norm": _norm,
    "batch_norm": _batch_norm,
    "prelu": _channels,
    "dropout": _dropout,
    "linear": _linear,
    "matmul mm addmm": _matmul,
    "bmm baddbmm scaled_dot_product_attention": _batched,
    "embedding": _embedding,
    "embedding_bag embedding_bag.padding_idx": _embedding_bag,
    "one_hot": _one_hot,
    "gather": _gather,
    "index.Tensor": _index,
    "index_select": _index_select,
    "einsum": _einsum,
    "gru.input lstm.input": _recurrent,
}
_RULES: dict[Any, _Rule] = {
    operator.getitem: _getitem,
    **{target: rule for names, rule in _TABLE.items() for target in _overloads(names)},
}
