"""The rules of canonicalize for all parts of a split: joined in order, they are a reshape of what was split; a single part is all of it.

    split(x, n, d)[0]                               -> x    when there is one part only
    cat(split(x, n, d), d)                          -> x
    cat(split(x [B, P, T], 1, 1), 2)                -> reshape(x, [B, 1, P * T])
    stack(unbind(x, d), d)                          -> x
    cat([*split(x, n, d), y], d)                    -> cat([x, y], d)

The order of the elements in memory stays: the parts stand side by side along a dimension of x, and all dimensions between that one and
the dimension of the join have one element.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from recfx.ir.access import argument_of, items_of
from recfx.ir.op_sets import SPLITS
from recfx.ir.sizes import same_sizes
from recfx.passes._match import argument, same_layout, value
from recfx.pipeline import Miss, PassContext

_aten = torch.ops.aten


def join_of_parts(node: fx.Node, ctx: PassContext) -> Any:
    """A cat or a stack that holds all parts of a split one after another.

    Args:
        node: The join.
        ctx: The pass context.
    """
    parts, joined = items_of(node, 0), value(node)
    runs = _runs(parts)
    if joined is None or len(runs) == len(parts):
        return None
    stacked = node.target is _aten.stack.default
    if stacked and len(runs) > 1:
        return None
    dim = argument(node, 1, "dim", 0) % joined.ndim
    for run in runs:
        if len(run) > 1 and not _keeps_order(run, dim):
            return Miss("the parts are not joined in the order in which they lie in memory")
    pieces = [_whole(ctx, run, dim, node if len(runs) == 1 else None) if len(run) > 1 else run[0] for run in runs]
    if None in pieces:
        return Miss("more than one size of the joined parts varies, or one is 0")
    found = pieces[0] if len(pieces) == 1 else ctx.call(_aten.cat.default, pieces, dim)
    assert found is not None
    held = value(found)
    return (
        found if held is not None and same_layout(held, joined) else Miss("the tensor that was split has other strides")
    )


def only_part(node: fx.Node, ctx: PassContext) -> Any:
    """The part of a split into one, such as a batch that a model computes in pieces of 1,024 rows and that has no more.

    Args:
        node: The part.
        ctx: The pass context.
    """
    split = node.args[0]
    if not isinstance(split, fx.Node) or split.target not in SPLITS:
        return None
    parts, source = split.meta.get("val"), argument_of(split, 0, fx.Node)
    before, after = value(source), value(node)
    if not isinstance(parts, tuple | list) or len(parts) != 1 or before is None or after is None:
        return None
    return source if same_layout(before, after) else Miss("the part has other strides or sizes")


def _runs(parts: Sequence[fx.Node]) -> list[list[fx.Node]]:
    """The parts in order: all parts of a split in its order, or single other ones."""
    found: list[list[fx.Node]] = []
    position = 0
    while position < len(parts):
        count = _count(parts[position]) if _number(parts[position]) == 0 else 0
        run = list(parts[position : position + count])
        whole = count > 1 and len(run) == count
        if not whole or any(part.args != (run[0].args[0], i) for i, part in enumerate(run)):
            run = [parts[position]]
        found.append(run)
        position += len(run)
    return found


def _number(part: fx.Node) -> Any:
    """The number of a part of a split; None for other nodes."""
    split: Any = part.args[0] if part.target is operator.getitem else None
    known = isinstance(split, fx.Node) and (split.target in SPLITS or split.target is _aten.unbind.int)
    return part.args[1] if known else None


def _count(part: fx.Node) -> int:
    """The number of parts of the split that gives a part."""
    split: Any = part.args[0]
    return len(split.meta["val"])


def _keeps_order(run: Sequence[fx.Node], dim: int) -> bool:
    """Whether a join along a dimension of the parts puts the elements in the order in which they lie in the tensor that was split."""
    split: Any = run[0].args[0]
    unbound = split.target is _aten.unbind.int
    held = value(split.args[0])
    if held is None or not all(isinstance(part, torch.Tensor) for part in split.meta["val"]):
        return False
    along = argument(split, 1 if unbound else 2, "dim", 0) % held.ndim
    at = (
        dim + 1 if unbound and dim >= along else dim
    )  # the dimension of the join, counted with the dimension of the split
    if at <= along:
        return all(size == 1 for size in _plain(held.shape[at:along]))
    one_each = unbound or all(size == 1 for size in _plain([part.shape[along] for part in split.meta["val"]]))
    return one_each and all(size == 1 for size in _plain(held.shape[along + 1 : at]))


def _plain(sizes: Sequence[Any]) -> list[int]:
    """Sizes, with 0 in place of those that vary, which may not be 1."""
    return [size if isinstance(size, int) else 0 for size in sizes]


def _whole(ctx: PassContext, run: Sequence[fx.Node], dim: int, join: fx.Node | None) -> fx.Node | None:
    """The tensor that was split, in the shape of the joined parts; None if `reshape` cannot infer a size that varies.

    Args:
        ctx: The pass context.
        run: All parts of a split.
        dim: The dimension of the join.
        join: The join, if it holds nothing else.
    """
    split: Any = run[0].args[0]
    source: fx.Node = split.args[0]
    if join is not None:
        sizes = list(join.meta["val"].shape)
    else:
        sizes = list(run[0].meta["val"].shape)
        along = [part.meta["val"].shape[dim] for part in run]
        sizes[dim] = sum(along) if all(isinstance(size, int) for size in along) else None
    if all(size is not None for size in sizes) and same_sizes(sizes, source.meta["val"].shape):
        return source
    varying = [i for i, size in enumerate(sizes) if not isinstance(size, int)]
    if len(varying) > 1 or (varying and 0 in sizes):
        return None
    return ctx.call(_aten.reshape.default, source, [-1 if i in varying else size for i, size in enumerate(sizes)])
