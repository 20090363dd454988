"""Reads of one position: matching them, and applying the selection to a tensor that is not narrowed."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import fx

from recfx.analysis.axis_maps import expression
from recfx.ir.access import tensor_of
from recfx.passes._match import argument, value
from recfx.passes.narrow.selection import Cut
from recfx.pipeline import PassContext

_aten = torch.ops.aten


@dataclasses.dataclass(frozen=True)
class Pick:
    """The position that is read.

    Attributes:
        length: The number of positions.
        index: The position, if it is the same in every row.
        rows: int64, one position for each row of the batch, in any shape of that many elements.
        wraps: Whether negative positions in `rows` count from the end.
    """

    length: int
    index: int | None = None
    rows: fx.Node | None = None
    wraps: bool = False

    @property
    def last(self) -> bool:
        """Whether it is the last position, in every row."""
        return self.index == self.length - 1


@dataclasses.dataclass(frozen=True)
class Read:
    """An operator that reads one position of a tensor.

    Attributes:
        node: The operator.
        source: The tensor.
        place: The dimension that it reads from.
        pick: The position.
        keeps: Whether its result keeps the dimension, with size 1.
    """

    node: fx.Node
    source: fx.Node
    place: Cut
    pick: Pick
    keeps: bool


def match_read(node: fx.Node) -> Read | None:
    """The read of one position at a node, `h[:, -1]`, `h[:, -1:]`, `h.gather(1, last)` or `h[arange(B), last]`; or None."""
    source = node.args[0] if node.args else None
    held = value(source)
    if not isinstance(source, fx.Node) or held is None or held.ndim < 2:
        return None
    if node.target is _aten.gather.default:
        return _match_gather(node, source, held)
    if node.target is _aten.index.Tensor:
        return _match_index(node, source, held)
    if node.target not in (_aten.select.int, _aten.slice.Tensor):
        return None
    dim = argument(node, 1, "dim", 0) % held.ndim
    length = held.shape[dim]
    if dim == held.ndim - 1 or not isinstance(length, int) or length < 2:
        return None
    if node.target is _aten.select.int and isinstance(node.args[2], int):
        return Read(node, source, Cut(dim), Pick(length, node.args[2] % length), keeps=False)
    if node.target is _aten.slice.Tensor and argument(node, 4, "step", 1) == 1:
        start, end = argument(node, 2, "start"), argument(node, 3, "end")
        if isinstance(start, int | None) and isinstance(end, int | None):
            begin, stop, _ = slice(start, end).indices(length)
            if stop - begin == 1:
                return Read(node, source, Cut(dim), Pick(length, begin), keeps=True)
    return None


def _match_gather(node: fx.Node, source: fx.Node, held: torch.Tensor) -> Read | None:
    dim = argument(node, 1, "dim") % held.ndim
    length, index = held.shape[dim], argument(node, 2, "index")
    base = index
    while isinstance(base, fx.Node) and base.target in (_aten.expand.default, _aten.repeat.default):
        base = base.args[0]
    positions, wide = value(base), value(index)
    if not isinstance(length, int) or length < 2 or positions is None or wide is None or positions.ndim != held.ndim:
        return None
    if any(expression(wide.shape[d]) != (1 if d == dim else expression(held.shape[d])) for d in range(held.ndim)):
        return None
    varying = [d for d in range(held.ndim) if expression(positions.shape[d]) != 1]
    if dim == held.ndim - 1 or len(varying) != 1 or isinstance(held.shape[varying[0]], int):
        return None
    return Read(node, source, Cut(dim, varying[0]), Pick(length, rows=base), keeps=True)


def _match_index(node: fx.Node, source: fx.Node, held: torch.Tensor) -> Read | None:
    indices: Any = node.args[1]
    if len(indices) != 2 or held.ndim < 3 or not isinstance(held.shape[1], int) or held.shape[1] < 2:
        return None
    rows, positions = indices
    each, at = value(rows), value(positions)
    if each is None or at is None or each.ndim != 1 or at.ndim != 1 or at.dtype is not torch.int64:
        return None
    counts_rows = rows.target in (_aten.arange.default, _aten.arange.start, _aten.arange.start_step)
    starts = 0 if rows.target is _aten.arange.default else rows.args[0]
    step = argument(rows, 2, "step", 1) if rows.target is _aten.arange.start_step else 1
    sizes = {expression(each.shape[0]), expression(at.shape[0]), expression(held.shape[0])}
    if not counts_rows or starts != 0 or step != 1 or len(sizes) != 1:
        return None
    return Read(node, source, Cut(1, 0), Pick(held.shape[1], rows=positions, wraps=True), keeps=False)


class Picker:
    """Applies one pick to tensors; inserts nodes at the place set by `ctx.before`."""

    def __init__(self, ctx: PassContext, pick: Pick) -> None:
        self.ctx = ctx
        self.pick = pick
        self._rows: dict[int, fx.Node] = {}
        self._spreads: dict[tuple[int, int, int], fx.Node] = {}

    def can(self, node: fx.Node, place: Cut) -> bool:
        """Whether the pick can be applied to a tensor at a place."""
        held = value(node)
        if held is None:
            return False
        shift = max(place.lift - held.ndim, 0)
        varying = [d + shift for d, size in enumerate(held.shape) if not isinstance(size, int)]
        return self.pick.rows is None or set(varying) <= {place.row}

    def apply(self, node: fx.Node, place: Cut) -> fx.Node:
        """The tensor narrowed to one entry along `place.dim`."""
        call = self.ctx.call
        if self.pick.index is not None:
            start = self.pick.index
            return call(_aten.slice.Tensor, node, place.dim, start, start + 1)
        held = tensor_of(node)
        assert place.row is not None
        shift = max(place.lift - held.ndim, 0)
        for _ in range(shift):
            node = call(_aten.unsqueeze.default, node, 0)
        sizes = [1] * shift + list(held.shape)
        index = self._spread(place.repeat, place.row, len(sizes))
        if place.lift:
            rows = call(_aten.sym_size.int, index, place.row)
            node = call(_aten.expand.default, node, [rows if d == place.row else -1 for d in range(len(sizes))])
        wide = [-1 if d == place.row else 1 if d == place.dim else size for d, size in enumerate(sizes)]
        return call(_aten.gather.default, node, place.dim, call(_aten.expand.default, index, wide))

    def _spread(self, repeat: int, row: int, ndim: int) -> fx.Node:
        """The positions as a tensor of rank `ndim`: along dimension `row`, the other dimensions being 1."""
        if (repeat, row, ndim) not in self._spreads:
            index = self._index(repeat)
            for d in range(ndim):
                if d != row:
                    index = self.ctx.call(_aten.unsqueeze.default, index, d)
            self._spreads[repeat, row, ndim] = index
        return self._spreads[repeat, row, ndim]

    def _index(self, repeat: int) -> fx.Node:
        """int64 [rows * repeat]: the position of each row, `repeat` times."""
        if repeat not in self._rows:
            call, rows = self.ctx.call, self.pick.rows
            if repeat > 1:
                column = call(_aten.unsqueeze.default, self._index(1), 1)
                found = call(_aten.reshape.default, call(_aten.expand.default, column, [-1, repeat]), [-1])
            else:
                found = call(_aten.reshape.default, rows, [-1])
                if self.pick.wraps:
                    below = call(_aten.lt.Scalar, found, 0)
                    found = call(_aten.where.self, below, call(_aten.add.Tensor, found, self.pick.length), found)
            self._rows[repeat] = found
        return self._rows[repeat]
