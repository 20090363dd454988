"""Writes through views: the new content of a base, from a view operator and the new content of the view."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from recfx.errors import CaptureError
from recfx.ir.op_sets import DROPOUTS, REGROUPINGS, SPLITS, TRANSPOSITIONS
from recfx.ir.provenance import where

_aten = torch.ops.aten

_Write = Callable[[fx.Node, fx.Node, fx.Node], tuple[Any, tuple[Any, ...]] | None]


def write_through(graph: fx.Graph, view: fx.Node, base: fx.Node, value: fx.Node, at: fx.Node) -> fx.Node:
    """Inserts the node that holds `base` with `value` in the part that `view` covers.

    Args:
        graph: The graph, with its insertion point where the node belongs.
        view: The original view node.
        base: The current content of the base.
        value: The new content of the view.
        at: The in-place node; the new node copies its provenance.

    Raises:
        CaptureError: The view has no inverse (expand, as_strided, ...).
    """
    original = view.args[0]
    assert isinstance(original, fx.Node)
    if view.target is operator.getitem:
        source = original
        original = source.all_input_nodes[0]
        call = _split_write(view, source, base, value)
    elif view.target in DROPOUTS or _same_layout(view.meta["val"], original.meta["val"]):
        return value
    else:
        rule = _RULES.get(view.target)
        call = rule(view, base, value) if rule else None
    if call is None:
        raise CaptureError(
            f"the model writes through {view.target}, which recfx cannot turn into a functional form",
            where=where(at),
            hint="build the result with torch.cat, torch.where or an out-of-place operator",
        )
    node = graph.call_function(*call)
    node.meta = {**at.meta, "val": original.meta["val"]}
    return node


def _same_layout(a: torch.Tensor, b: torch.Tensor) -> bool:
    return (
        tuple(a.shape) == tuple(b.shape)
        and tuple(a.stride()) == tuple(b.stride())
        and a.storage_offset() == b.storage_offset()
    )


def _arg(node: fx.Node, index: int, default: Any) -> Any:
    return node.args[index] if index < len(node.args) else default


def _slice(view: fx.Node, base: fx.Node, value: fx.Node) -> tuple[Any, tuple[Any, ...]]:
    dim, start, end, step = (_arg(view, i, d) for i, d in ((1, 0), (2, None), (3, None), (4, 1)))
    return _aten.slice_scatter.default, (base, value, dim, start, end, step)


def _select(view: fx.Node, base: fx.Node, value: fx.Node) -> tuple[Any, tuple[Any, ...]]:
    return _aten.select_scatter.default, (base, value, view.args[1], view.args[2])


def _permute(view: fx.Node, base: fx.Node, value: fx.Node) -> tuple[Any, tuple[Any, ...]]:
    dims: Any = view.args[1]
    inverse = [0] * len(dims)
    for position, dim in enumerate(dims):
        inverse[dim % len(dims)] = position
    return _aten.permute.default, (value, inverse)


def _transpose(view: fx.Node, base: fx.Node, value: fx.Node) -> tuple[Any, tuple[Any, ...]]:
    return _aten.transpose.int, (value, view.args[1], view.args[2])


def _matrix_transpose(view: fx.Node, base: fx.Node, value: fx.Node) -> tuple[Any, tuple[Any, ...]]:
    return _aten.transpose.int, (value, -1, -2)


def _movedim(view: fx.Node, base: fx.Node, value: fx.Node) -> tuple[Any, tuple[Any, ...]]:
    return view.target, (value, view.args[2], view.args[1])


def _narrow(view: fx.Node, base: fx.Node, value: fx.Node) -> tuple[Any, tuple[Any, ...]] | None:
    dim, start, length = view.args[1:4]
    if not isinstance(start, int) or not isinstance(length, int):
        return None
    end = None if start < 0 and start + length == 0 else start + length
    return _aten.slice_scatter.default, (base, value, dim, start, end, 1)


def _diagonal(view: fx.Node, base: fx.Node, value: fx.Node) -> tuple[Any, tuple[Any, ...]]:
    return _aten.diagonal_scatter.default, (base, value, *view.args[1:])


def _t(view: fx.Node, base: fx.Node, value: fx.Node) -> tuple[Any, tuple[Any, ...]]:
    return _aten.t.default, (value,)


def _reshape(view: fx.Node, base: fx.Node, value: fx.Node) -> tuple[Any, tuple[Any, ...]]:
    return _aten.reshape_as.default, (value, base)


def _split_write(view: fx.Node, source: fx.Node, base: fx.Node, value: fx.Node) -> tuple[Any, tuple[Any, ...]] | None:
    """The operator for a write to one output of unbind, split or chunk, and its arguments; None when it has no such form."""
    index: Any = view.args[1]
    if source.target is _aten.unbind.int:
        return _aten.select_scatter.default, (base, value, _arg(source, 1, 0), index)
    if source.target not in SPLITS:
        return None
    dim = _arg(source, 2, 0)
    sizes = [part.shape[dim] for part in source.meta["val"]]
    if not all(isinstance(s, int) for s in sizes):
        return None
    start = sum(sizes[:index])
    return _aten.slice_scatter.default, (base, value, dim, start, start + sizes[index], 1)


_RULES: dict[Any, _Write] = {
    _aten.slice.Tensor: _slice,
    _aten.select.int: _select,
    _aten.permute.default: _permute,
    **dict.fromkeys(TRANSPOSITIONS, _transpose),
    _aten.mT.default: _matrix_transpose,
    _aten.movedim.int: _movedim,
    _aten.movedim.intlist: _movedim,
    _aten.narrow.default: _narrow,
    _aten.diagonal.default: _diagonal,
    _aten.t.default: _t,
    _aten.numpy_T.default: _t,
    **dict.fromkeys((*REGROUPINGS, _aten.view_as.default, _aten.reshape_as.default), _reshape),
}
