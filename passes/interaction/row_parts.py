"""Parts of rows: the place of a value in the tensor that it is a view of, counted in elements of one row of the batch."""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

from recfx.ir.op_sets import COPIES, EQUAL_SPLITS, REGROUPINGS, SPLITS
from recfx.ir.program import Program
from recfx.ir.sizes import same_size
from recfx.passes._match import argument, value
from recfx.pipeline import PassContext

_aten = torch.ops.aten


@dataclasses.dataclass(frozen=True)
class RowPart:
    """Consecutive elements of each row of a tensor [B, ...].

    Attributes:
        base: The tensor.
        start: The first element, counted in a row of the base.
        length: The number of elements.
    """

    base: fx.Node
    start: int
    length: int

    @property
    def whole(self) -> bool:
        """Whether it is the whole row of its base."""
        return self.length == row_length(self.base)

    @property
    def index(self) -> int:
        """The number of parts of this length in front of it."""
        return self.start // self.length


def row_length(node: Any) -> int | None:
    """The number of elements of a row of a tensor [B, ...]; None if it varies, is 0, or the node gives no tensor."""
    held = value(node)
    if held is None or held.ndim == 0 or not all(isinstance(size, int) for size in held.shape[1:]):
        return None
    return math.prod(held.shape[1:]) or None


def row_part(ctx: PassContext, node: fx.Node) -> RowPart | None:
    """The part of a row that a node is, of the last tensor on the way to the input that holds a whole number of parts of its length.

    Args:
        ctx: The pass context.
        node: A tensor [B, ...].
    """
    known = ctx.analysis(_known_parts)
    if node not in known:
        known[node] = _found_part(ctx, node)
    return known[node]


def _known_parts(program: Program) -> dict[fx.Node, RowPart | None]:
    """The parts that were asked for since the last rewrite: a field of n fields is asked for with each of its n - 1 partners."""
    return {}


def _found_part(ctx: PassContext, node: fx.Node) -> RowPart | None:
    length = row_length(node)
    if length is None:
        return None
    found, start = RowPart(node, 0, length), 0
    for source, offset in _sources(ctx, node):
        start += offset
        if start % length == 0 and (row_length(source) or 1) % length == 0:
            found = RowPart(source, start, length)
    return found


def _sources(ctx: PassContext, node: fx.Node) -> Iterator[tuple[fx.Node, int]]:
    """The tensors that a node is a view of, from the nearest on, with the first element of the view in their rows."""
    current: Any = node
    while (found := _source(ctx, current)) is not None:
        yield found
        current = found[0]


def _source(ctx: PassContext, node: fx.Node) -> tuple[fx.Node, int] | None:
    source: Any = node.args[0] if node.args else None
    if not isinstance(source, fx.Node):
        return None
    if node.target is operator.getitem:
        return _split_part(source, node.args[1])
    if not _same_rows(source, node):
        return None
    if node.target in REGROUPINGS or node.target in COPIES:
        return (source, 0) if row_length(source) == row_length(node) else None
    rank = source.meta["val"].ndim
    if node.target is _aten.select.int:
        return _place(source, argument(node, 1, "dim") % rank, argument(node, 2, "index"))
    if node.target is _aten.slice.Tensor and argument(node, 4, "step", 1) == 1:
        return _place(source, argument(node, 1, "dim", 0) % rank, argument(node, 2, "start") or 0)
    index = constant_index(ctx, node)
    if index is not None and index[1] == list(range(index[1][0], index[1][0] + len(index[1]))):
        return _place(source, index[0], index[1][0])
    return None


def constant_index(ctx: PassContext, node: fx.Node) -> tuple[int, list[int]] | None:
    """(dimension, positions) of an operator that takes constant positions along one dimension behind the batch; None for others."""
    source: Any = node.args[0] if node.args else None
    held = value(source)
    read: Any = None
    if held is None:
        return None
    if node.target is _aten.index_select.default:
        dim, read = argument(node, 1, "dim") % held.ndim, node.args[2]
    elif node.target is _aten.index.Tensor:
        given: Any = node.args[1]
        dim = len(given) - 1
        read = given[-1] if all(i is None for i in given[:-1]) else None
    index = ctx.tensor(read)
    if index is None or index.dtype not in (torch.int64, torch.int32) or index.ndim != 1 or not len(index) or dim == 0:
        return None
    size = held.shape[dim]
    return (dim, [int(i) % size for i in index.tolist()]) if isinstance(size, int) else None


def _split_part(split: fx.Node, index: Any) -> tuple[fx.Node, int] | None:
    """The place of one result of an unbind or a split."""
    source: Any = split.args[0]
    unbound = split.target is _aten.unbind.int
    if not unbound and split.target not in SPLITS:
        return None
    dim = argument(split, 1 if unbound else 2, "dim", 0) % source.meta["val"].ndim
    results = split.meta["val"]
    if not isinstance(index, int) or not _same_rows(source, results[index]):
        return None
    number = index % len(results)
    return _place(source, dim, number if unbound else _first_of(split, number, dim))


def _first_of(split: fx.Node, number: int, dim: int) -> int:
    """The first position of a part of a split. A split has as many parts as fields, so each part is found without a visit to all others."""
    results, sizes = split.meta["val"], split.args[1]
    if split.target in EQUAL_SPLITS and split.target is not _aten.tensor_split.sections:
        return number * int(results[0].shape[dim])
    if split.target is not _aten.tensor_split.indices and isinstance(sizes, list | tuple):
        return sum(sizes[:number])
    return sum(int(part.shape[dim]) for part in results[:number])


def _same_rows(a: Any, b: Any) -> bool:
    left, right = (x if isinstance(x, torch.Tensor) else value(x) for x in (a, b))
    if left is None or right is None or not left.ndim or not right.ndim or not same_size(left.shape[0], right.shape[0]):
        return False
    return all(isinstance(size, int) for size in (*left.shape[1:], *right.shape[1:]))


def _place(source: fx.Node, dim: int, position: Any) -> tuple[fx.Node, int] | None:
    """The tensor and the first element of what it holds from a position of a dimension on; None if that is not one run."""
    sizes = source.meta["val"].shape
    if dim == 0 or not isinstance(position, int) or math.prod(sizes[1:dim]) != 1:
        return None
    first = min(max(position + sizes[dim], 0) if position < 0 else position, sizes[dim])
    return source, first * math.prod(sizes[dim + 1 :])


def rows_joined(node: fx.Node) -> list[int] | None:
    """The order in which the dimensions of a join hold the rows of its parts one after another; None if it joins in another way."""
    parts: Any = node.args[0]
    held, stacked = value(node), node.target is _aten.stack.default
    if held is None or held.ndim < 1 or any(row_length(part) is None for part in parts):
        return None
    dim, sizes = argument(node, 1, "dim", 0) % held.ndim, parts[0].meta["val"].shape
    if dim > 0 and math.prod(sizes[1:dim]) == 1:
        return list(range(held.ndim))
    if not stacked:
        return None
    inner = [0, *range(2, held.ndim)]  # [B, P, ...] -> the place of the pairs at `dim`
    return [*inner[:dim], 1, *inner[dim:]]
