"""The axis along which a value has one row for each row of the batch, in a graph with a free batch."""

from __future__ import annotations

import dataclasses
from typing import Any

import sympy
import torch
from torch import fx

_aten = torch.ops.aten


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows of a value: along `axis`, where each row has `inner` consecutive places.

    Attributes:
        axis: The axis, from 0.
        inner: The number of places for each row: 1 for [B, D], L for a flattened history [B * L, D].
    """

    axis: int
    inner: int = 1


def rows_of(value: Any, batch: sympy.Symbol) -> Rows | str | None:
    """The rows of a fake value; None when no size depends on the batch; a string with the reason when the rows are unclear.

    Args:
        value: A fake tensor, or a tuple or list of fake tensors, of which the first one counts.
        batch: The symbol of the batch.
    """
    if isinstance(value, tuple | list):
        return rows_of(value[0], batch) if value else None
    if not isinstance(value, torch.Tensor):
        return None
    axes = [axis for axis, size in enumerate(value.shape) if depends_on(size, batch)]
    if not axes:
        return None
    if len(axes) > 1:
        return "it has the batch along two axes"
    inner = multiple(value.shape[axes[0]], batch)
    if inner is None:
        return f"its size {value.shape[axes[0]]} is not a multiple of the batch"
    return Rows(axes[0], inner)


def depends_on(size: Any, batch: sympy.Symbol) -> bool:
    """Whether a size depends on the batch."""
    return isinstance(size, torch.SymInt) and bool(batch in size.node.expr.free_symbols)


def multiple(size: Any, batch: sympy.Symbol) -> int | None:
    """The factor k of a size `k * batch`; None for any other size."""
    quotient = sympy.simplify(size.node.expr / batch)
    return int(quotient) if quotient.is_Integer and quotient >= 1 else None


def offsets_of_fixed_bags(offsets: Any, flat: Any, batch: sympy.Symbol) -> bool:
    """Whether the offsets of a bag operator are 0, L, 2 L, ... for ids [B * L], as `nn.EmbeddingBag` computes them for ids [B, L]."""
    rows = rows_of(held_by(flat), batch)
    if not isinstance(offsets, fx.Node) or not isinstance(rows, Rows) or rows.axis:
        return False
    if offsets.target is not _aten.arange.start_step or offsets.args[0] != 0:
        return False
    step: Any = offsets.args[2] if len(offsets.args) > 2 else 1
    return bool(step == rows.inner and rows_of(held_by(offsets), batch) == Rows(0))


def held_by(value: Any) -> Any:
    """The fake value of a node; None for a value that is not a node."""
    return value.meta.get("val") if isinstance(value, fx.Node) else None
