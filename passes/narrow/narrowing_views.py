"""How a selection sinks through operators that move or regroup elements without computing; see `_sink`."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import sympy
import torch
from torch import fx

from recfx.ir.op_sets import RESHAPES, SIZED_RESHAPES
from recfx.passes._match import argument, value
from recfx.passes.narrow.selection import Narrow, Place, Step, expression, moved, node_of, out_of, same_place

_aten = torch.ops.aten


def reshape(node: fx.Node, place: Place) -> Step | None:
    out, source = out_of(node), node.args[0]
    mark = through_reshape(source, out.shape, place)
    if mark is None:
        return flattened_linear(node, place)
    args, kwargs = (mark, *node.args[1:]), dict(node.kwargs)
    if node.target in SIZED_RESHAPES:
        args = (mark, with_one(node.args[1], place.dim))
        return Step(_aten.reshape.default, args, kwargs, view=True)
    return Step(node.target, args, kwargs, view=True)


def with_one(sizes: Any, dim: int) -> list[Any]:
    return [1 if d == dim else s for d, s in enumerate(sizes)]


def through_reshape(source: Any, shape: Sequence[Any], place: Place) -> Narrow | None:
    """The place in the source of a reshape that is `place` in its result: dimensions match when the products before them do."""
    held = value(source)
    if held is None:
        return None

    def find(dim: int, repeat: int) -> tuple[int, int] | None:
        before, size = math.prod(map(expression, shape[:dim])), expression(shape[dim])
        product: Any = sympy.Integer(1)
        for other, entry in enumerate(map(expression, held.shape)):
            if sympy.expand(product - before) == 0 and entry != 1:
                factor = sympy.simplify(entry * repeat / size)
                return (other, int(factor)) if factor.is_Integer else None
            product *= entry
        return None

    dim = find(place.dim, 1)
    if dim is None or dim[1] != 1:
        return None
    if place.row is None:
        return Narrow(source, Place(dim[0]))
    row = find(place.row, place.repeat)
    return None if row is None else Narrow(source, Place(dim[0], *row))


def flattened_linear(node: fx.Node, place: Place) -> Step | None:
    """view(linear(reshape(x, [rows, K])), [..., N]): a linear over positions that are flattened into its rows."""
    out, linear = out_of(node), node.args[0]
    if not isinstance(linear, fx.Node) or linear.target is not _aten.linear.default or len(linear.users) != 1:
        return None
    flat, width = linear.args[0], out_of(linear).shape[-1]
    if not isinstance(flat, fx.Node) or flat.target not in RESHAPES:
        return None
    if out_of(flat).ndim != 2 or expression(width) != expression(out.shape[-1]) or len(flat.users) != 1:
        return None
    if place.dim == out.ndim - 1:
        return None
    columns = out_of(flat).shape[-1]
    mark = through_reshape(flat.args[0], [*out.shape[:-1], columns], place)
    if mark is None:
        return None
    sizes: Any = node.args[1]
    wide = Step(_aten.reshape.default, (mark, [*with_one(sizes, place.dim)[:-1], columns]))
    return Step(linear.target, (wide, *linear.args[1:]), dict(linear.kwargs), heavy=True, absorbed=(linear, flat))


def transpose(node: fx.Node, place: Place) -> Step:
    ndim = out_of(node).ndim
    a, b = (argument(node, i, f"dim{i - 1}") % ndim for i in (1, 2))
    swap = {a: b, b: a}
    return Step(node.target, (moved(node.args[0], place, lambda d: swap.get(d, d)), *node.args[1:]), view=True)


def permute(node: fx.Node, place: Place) -> Step:
    order: Any = node.args[1]
    return Step(node.target, (moved(node.args[0], place, lambda d: order[d] % len(order)), *node.args[1:]), view=True)


def unsqueeze(node: fx.Node, place: Place) -> Step | None:
    new = argument(node, 1, "dim") % out_of(node).ndim
    if new in (place.dim, place.row):
        return None
    return Step(node.target, (moved(node.args[0], place, lambda d: d - (d > new)), new), view=True)


def dropping(node: fx.Node, place: Place) -> Step | None:
    """squeeze.dim and select: one dimension of the source is gone."""
    source = value(node.args[0])
    if source is None or source.ndim == out_of(node).ndim:
        return None
    gone = argument(node, 1, "dim") % source.ndim
    mark = moved(node.args[0], place, lambda d: d + (d >= gone))
    return Step(node.target, (mark, gone, *node.args[2:]), dict(node.kwargs), view=True)


def slice(node: fx.Node, place: Place) -> Step | None:
    if argument(node, 1, "dim", 0) % out_of(node).ndim in (place.dim, place.row):
        return None
    return Step(node.target, (Narrow(node_of(node.args[0]), place), *node.args[1:]), dict(node.kwargs), view=True)


def expand(node: fx.Node, place: Place) -> Step:
    return Step(
        node.target,
        (same_place(node.args[0], out_of(node), place), with_one(node.args[1], place.dim)),
        dict(node.kwargs),
        view=True,
    )


def joining(node: fx.Node, place: Place) -> Step | None:
    """cat and stack."""
    ndim, dim = out_of(node).ndim, argument(node, 1, "dim", 0)
    dim %= ndim
    if dim in (place.dim, place.row):
        return None
    parts: Any = node.args[0]
    gone = node.target is _aten.stack.default
    marks = [moved(p, place, lambda d: d - (gone and d > dim)) for p in parts]
    return Step(node.target, (marks, dim), dict(node.kwargs))


def item(node: fx.Node, place: Place) -> Step | None:
    several: Any = node.args[0]
    return (
        Step(operator.getitem, (Narrow(several, place), node.args[1]), view=True) if several.target in SEVERAL else None
    )


def unbind(node: fx.Node, place: Place) -> Step | None:
    source = value(node.args[0])
    if source is None:
        return None
    gone = argument(node, 1, "dim", 0) % source.ndim
    return Step(node.target, (moved(node.args[0], place, lambda d: d + (d >= gone)), gone), view=True)


def split(node: fx.Node, place: Place) -> Step | None:
    source = value(node.args[0])
    if source is None or argument(node, 2, "dim", 0) % source.ndim in (place.dim, place.row):
        return None
    return Step(node.target, (Narrow(node_of(node.args[0]), place), *node.args[1:]), dict(node.kwargs), view=True)


SEVERAL: dict[Any, Any] = {
    _aten.unbind.int: unbind,
    _aten.split_with_sizes.default: split,
    _aten.split.Tensor: split,
    _aten.chunk.default: split,
}
