"""Traces id columns through views to the tensor that holds them, so that one operator can read many columns of one tensor.

A tensor is seen as rows and columns: its first `lead` dimensions are the rows, the others, flattened, the columns.
"""

from __future__ import annotations

import dataclasses
import math
import operator
from typing import Any

import torch
from torch import fx

from recfx.errors import VerificationError
from recfx.ir.access import argument_of, tensor_of
from recfx.ir.op_sets import CASTS, COPIES, REGROUPINGS, SPLITS
from recfx.ir.provenance import where
from recfx.ir.sizes import same_size
from recfx.passes._match import argument, value
from recfx.pipeline import PassContext

_aten = torch.ops.aten

#: The dtypes of ids.
_IDS = (torch.int64, torch.int32)


@dataclasses.dataclass(frozen=True)
class Columns:
    """A run of adjacent columns of a tensor.

    Attributes:
        source: The tensor.
        start: First column.
        count: Number of columns.
        cast: The dtype that the source is converted to first; None for no conversion.
        bases: The number that is added to each column; empty for none.
    """

    source: fx.Node
    start: int
    count: int
    cast: torch.dtype | None = None
    bases: tuple[int, ...] = ()

    def part(self, start: int, count: int) -> Columns:
        """Some of these columns."""
        return dataclasses.replace(self, start=self.start + start, count=count, bases=self.bases[start : start + count])


def rows_of(node: Any, lead: int) -> tuple[Any, ...] | None:
    """The sizes of a tensor's rows: its first `lead` dimensions; None when it has fewer."""
    held = value(node)
    return None if held is None or held.ndim < lead else tuple(held.shape[:lead])


def same_rows(a: tuple[Any, ...] | None, b: tuple[Any, ...] | None) -> bool:
    """Whether two tensors have the same rows."""
    if a is None or b is None:
        return False
    return len(a) == len(b) and all(same_size(x, y) for x, y in zip(a, b, strict=True))


def column_count(node: Any, lead: int) -> int | None:
    """How many columns a tensor has after its first `lead` dimensions; None when that varies."""
    held = value(node)
    if held is None or held.ndim < lead or not all(isinstance(s, int) for s in held.shape[lead:]):
        return None
    return math.prod(held.shape[lead:])


def columns_in(node: fx.Node, lead: int) -> int:
    """How many columns a tensor has after its first `lead` dimensions, where the number is known to be fixed.

    Raises:
        VerificationError: The number of columns varies.
    """
    count = column_count(node, lead)
    if count is None:
        raise VerificationError(f"expected a fixed number of columns after {lead} dimensions", where=where(node))
    return count


def is_reshape(node: Any, lead: int) -> bool:
    """Whether a node keeps the rows of its input, and the order of its elements."""
    if not isinstance(node, fx.Node) or node.target not in (*REGROUPINGS, *COPIES):
        return False
    source = node.args[0]
    same_dtype = value(source) is not None and value(node) is not None
    return same_dtype and same_rows(rows_of(source, lead), rows_of(node, lead)) and _fixed(source, lead)


def _fixed(node: Any, lead: int) -> bool:
    return column_count(node, lead) is not None


def columns_of(ctx: PassContext, node: fx.Node, lead: int) -> Columns | None:
    """The columns a node holds, traced back through selections, slices, splits, reshapes, casts and added constants.

    Args:
        ctx: The pass context.
        node: Any tensor.
        lead: How many dimensions are rows.

    Returns:
        The columns of the earliest tensor that holds them, which may be the node itself; None if their number varies.
    """
    count = column_count(node, lead)
    if count is None:
        return None
    return _traced(ctx, node, lead) or Columns(node, 0, count)


def _traced(ctx: PassContext, node: fx.Node, lead: int) -> Columns | None:
    if is_reshape(node, lead):
        return columns_of(ctx, argument_of(node, 0, fx.Node), lead)
    if node.target is _aten.select.int or node.target is _aten.slice.Tensor or node.target is operator.getitem:
        return _picked(ctx, node, lead)
    if node.target in CASTS:
        return _cast(ctx, node, lead)
    if node.target is _aten.add.Tensor:
        return _shifted(ctx, node, lead)
    return None


def _picked(ctx: PassContext, node: fx.Node, lead: int) -> Columns | None:
    """The columns that a selection along the outermost dimension of the columns reads."""
    source: Any
    if node.target is operator.getitem:
        split: Any = node.args[0]
        if split.target not in (*SPLITS, _aten.unbind.int):
            return None
        source = split.args[0]
        dim = argument(split, 1 if split.target is _aten.unbind.int else 2, "dim", 0)
    else:
        source, dim = node.args[0], argument(node, 1, "dim", 0)
    held = value(source)
    if held is None or not _outermost(held, dim % held.ndim, lead):
        return None
    size = held.shape[dim % held.ndim]
    start = _first(node, size)
    if start is None:
        return None
    taken = column_count(node, lead)
    inner = _of_stack(ctx, source, start, lead) if node.target is not _aten.slice.Tensor else None
    if inner is not None or taken is None:
        return inner
    whole = columns_of(ctx, source, lead)
    if whole is None:
        return None
    return whole.part(start * (whole.count // size), taken)


def _outermost(held: torch.Tensor, dim: int, lead: int) -> bool:
    """Whether a dimension is the outermost of the columns, so that a selection along it reads adjacent columns."""
    sizes = held.shape
    return dim >= lead and isinstance(sizes[dim], int) and all(isinstance(s, int) and s == 1 for s in sizes[lead:dim])


def _first(node: fx.Node, size: int) -> int | None:
    """The first index of a selection along its dimension; None if it is not known."""
    if node.target is _aten.select.int:
        chosen = node.args[2]
        return chosen % size if isinstance(chosen, int) else None
    if node.target is _aten.slice.Tensor:
        begin, step = argument(node, 2, "start", 0), argument(node, 4, "step", 1)
        if step != 1 or not isinstance(begin, int | None):
            return None
        begin = begin or 0
        return min(max(begin + size if begin < 0 else begin, 0), size)
    split: Any = node.args[0]
    index: Any = node.args[1]
    if split.target is _aten.unbind.int:
        return int(index)
    dim = argument(split, 2, "dim", 0)
    sizes = [part.shape[dim] for part in split.meta["val"][:index]]
    return sum(sizes) if all(isinstance(s, int) for s in sizes) else None


def _of_stack(ctx: PassContext, source: Any, index: int, lead: int) -> Columns | None:
    """The columns of one operand of a stack along the columns; None if the source is not such a stack."""
    if source.target is not _aten.stack.default:
        return None
    held = tensor_of(source)
    dim = argument(source, 1, "dim", 0) % held.ndim
    return columns_of(ctx, source.args[0][index], lead) if dim == lead else None


def _cast(ctx: PassContext, node: fx.Node, lead: int) -> Columns | None:
    """The columns behind a conversion to ids, which then runs once for the whole source."""
    before, after = value(node.args[0]), value(node)
    if before is None or after is None or after.dtype not in _IDS or before.device != after.device:
        return None
    inner = columns_of(ctx, argument_of(node, 0, fx.Node), lead)
    if inner is None or inner.cast is not None or inner.bases:
        return None
    held = tensor_of(inner.source)
    if held.dtype is after.dtype or (held.dtype is torch.int32 and after.dtype is torch.int64):
        return inner  # a lookup takes both kinds of ids
    if held.dtype is torch.int64:
        return None  # narrowing could turn an id out of range into a valid one
    return dataclasses.replace(inner, cast=after.dtype)


def _shifted(ctx: PassContext, node: fx.Node, lead: int) -> Columns | None:
    """The columns of ids behind an addition of constants: the first rows of fields in a shared table."""
    source, other = node.args[:2]
    held = value(node)
    if held is None or held.dtype not in _IDS or node.kwargs.get("alpha", 1) != 1:
        return None
    if not isinstance(source, fx.Node) or source.op == "get_attr":
        source, other = other, source
    if not isinstance(source, fx.Node) or not same_rows(rows_of(source, lead), rows_of(node, lead)):
        return None
    before = value(source)
    if before is None or before.dtype not in _IDS or not same_rows(tuple(before.shape), tuple(held.shape)):
        return None
    inner = columns_of(ctx, source, lead)
    added = _added(ctx, other, held, lead)
    if inner is None or added is None:
        return None
    bases = tuple(a + b for a, b in zip(added, inner.bases or (0,) * inner.count, strict=True))
    return dataclasses.replace(inner, bases=bases if any(bases) else ())


def _added(ctx: PassContext, other: Any, held: torch.Tensor, lead: int) -> list[int] | None:
    """The constant added to each column; None if the addend is not constant or differs between rows."""
    columns = held.shape[lead:]
    if isinstance(other, int) and not isinstance(other, bool):
        return [other] * math.prod(columns)
    constant = ctx.tensor(other)
    if constant is None or constant.dtype not in _IDS or constant.ndim > held.ndim:
        return None
    constant = constant.reshape([1] * (held.ndim - constant.ndim) + list(constant.shape))
    if any(size != 1 for size in constant.shape[:lead]):
        return None
    return [int(x) for x in constant.reshape(constant.shape[lead:]).expand(columns).flatten().tolist()]
