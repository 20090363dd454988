"""The dynamic dimensions of the inputs, from the example inputs, and symbolic sizes as expressions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from recfx.errors import InputError
from recfx.ir.bags import Bags
from recfx.ir.bags import marks as bag_marks
from recfx.ir.jagged import dynamic_shapes, is_jagged, leaf_count, resample, row_keys, rows
from recfx.ir.sizes import evaluate_size

BATCH = "batch"


def evaluate_rows(size: int | str, rows: int) -> int:
    """The value of a size at a batch of `rows`: `61*batch` at 2 is 122. Zero when it depends on another dimension."""
    if isinstance(size, int):
        return size
    return evaluate_size(size, {BATCH: rows}) or 0


def positions(parts: Sequence[Any]) -> list[int]:
    """The position of the first leaf of every part; a part is a leaf or a whole jagged tensor."""
    starts, at = [], 0
    for part in parts:
        starts.append(at)
        at += leaf_count(part)
    return starts


def batch_size(values: Any, bags: Sequence[Bags] = ()) -> int | None:
    """The batch of nested inputs, from the first part that determines it; None without one.

    A tensor determines it by dimension 0, a jagged tensor or the bounds of bags by the number of bags. Tensors that hold ids of bags do
    not determine it.

    Args:
        values: The parameter values, nested as the user nests them.
        bags: The leaves that form bags.
    """
    leaves = pytree.tree_leaves(values)
    parts = pytree.tree_leaves(values, is_leaf=is_jagged)
    bounds = {group.bounds: group for group in bags}
    ids = {leaf for group in bags for leaf in group.members}
    for part, position in zip(parts, positions(parts), strict=True):
        if is_jagged(part):
            return rows(part)
        if position in bounds:
            return bounds[position].batch(leaves)
        if position not in ids and isinstance(part, torch.Tensor) and part.ndim:
            return int(part.shape[0])
    return None


def widen_batch(values: Sequence[Any], bags: Sequence[Bags] = ()) -> list[Any]:
    """Repeats the row of a batch of one, since tracing with one row would fix the batch at one.

    Raises:
        InputError: The example batch is empty.
    """
    size = batch_size(values, bags)
    if size == 0:
        raise InputError("the example batch is empty", hint="give example inputs of two rows or more")
    if size != 1:
        return list(values)
    twice: dict[int, torch.Tensor] = {}
    leaves = pytree.tree_leaves(list(values))
    for group in bags:
        twice |= group.resample(leaves, torch.zeros(group.runs, 2, dtype=torch.int64))
    parts, spec = pytree.tree_flatten(list(values), is_leaf=is_jagged)
    widened = []
    for part, position in zip(parts, positions(parts), strict=True):
        if is_jagged(part):
            part = resample(part, torch.zeros(row_keys(part), 2, dtype=torch.int64))
        elif position in twice:
            part = twice[position]
        elif isinstance(part, torch.Tensor) and part.ndim and part.shape[0] == 1:
            part = torch.cat([part, part])
        widened.append(part)
    found: list[Any] = pytree.tree_unflatten(widened, spec)
    return found


def infer_dynamic_shapes(
    values: Any, max_batch: int, bags: Sequence[Bags] = (), *, traced_batch: int | None = None
) -> Any:
    """Marks dimension 0 of every tensor as the batch when it has the size of the batch; marks bags as `bags.marks` does.

    Args:
        values: The parameter values, nested as the user nests them.
        max_batch: The largest batch of the captured model.
        bags: The leaves that form bags.
        traced_batch: The largest batch of the trace, if it is another.

    Returns:
        The same nesting with `{0: Dim("batch", min=1, max=max_batch)}` or None at each leaf.

    Raises:
        InputError: The example batch is larger than `max_batch`.
    """
    parts, spec = pytree.tree_flatten(values, is_leaf=is_jagged)
    size = batch_size(values, bags)
    if size is not None and size > max_batch:
        raise InputError(
            f"the example batch has {size} rows, more than max_batch={max_batch}",
            hint="give a smaller example or a larger max_batch",
        )
    dim = torch.export.Dim(BATCH, min=1, max=traced_batch or max_batch)
    held = bag_marks(bags, pytree.tree_leaves(values), dim)
    marks: list[Any] = []
    for part, position in zip(parts, positions(parts), strict=True):
        if is_jagged(part):
            marks.append(dynamic_shapes(part, dim, f"jagged{len(marks)}"))
        elif position in held:
            marks.append(held[position])
        else:
            batched = isinstance(part, torch.Tensor) and part.ndim and part.shape[0] == size
            marks.append({0: dim} if batched else None)
    return in_export_form(spec, iter(marks))


def in_export_form(spec: pytree.TreeSpec, marks: Iterator[Any]) -> Any:
    """Nests marks in torch.export's form: built-in containers keep their type, any other becomes a list of its parts."""
    if spec.is_leaf():
        return next(marks)
    parts = [in_export_form(child, marks) for child in spec.children()]
    if spec.type in pytree.BUILTIN_TYPES:
        return pytree.SUPPORTED_NODES[spec.type].unflatten_fn(parts, spec.context)
    return parts


def sizes_of(value: torch.Tensor, names: dict[str, str]) -> tuple[int | str, ...]:
    """The sizes of a fake tensor: integers, or expressions over dimension names.

    Args:
        value: The fake tensor.
        names: Symbol of the shape environment (`s11`) -> dimension name (`batch`).
    """
    return tuple(_size(s, names) for s in value.shape)


def _size(size: Any, names: dict[str, str]) -> int | str:
    if isinstance(size, int):
        return size
    expression = size.node.expr
    for symbol in sorted(expression.free_symbols, key=str):
        names.setdefault(str(symbol), f"dim{len(names)}")
    import sympy

    return str(expression.subs({s: sympy.Symbol(names[str(s)], integer=True) for s in expression.free_symbols}))
