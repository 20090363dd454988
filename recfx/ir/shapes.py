"""Which dimensions of the inputs vary: from the example inputs, or from `dynamic_shapes` in torch.export's own form."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from recfx.errors import InputError
from recfx.ir.jagged import dynamic_shapes, is_jagged, resample, rows

BATCH = "batch"


def dimension_names(size: int | str) -> list[str]:
    """The dimensions that a size of a signature is made of."""
    return [] if isinstance(size, int) else re.findall(r"[A-Za-z_]\w*", size)


def batch_size(values: Any) -> int | None:
    """The size of the first dimension of the first tensor that has one, or of the first jagged tensor; None without any."""
    for leaf in pytree.tree_leaves(values, is_leaf=is_jagged):
        if is_jagged(leaf):
            return rows(leaf)
        if isinstance(leaf, torch.Tensor) and leaf.ndim:
            return int(leaf.shape[0])
    return None


def widen_batch(values: Sequence[Any]) -> list[Any]:
    """Repeats a batch of one to two rows, since tracing with one row would fix the batch at one.

    Raises:
        InputError: The example batch is empty.
    """
    size = batch_size(values)
    if size == 0:
        raise InputError("the example batch is empty", hint="give example inputs of two rows or more")
    if size != 1:
        return list(values)

    def widen(leaf: Any) -> Any:
        if is_jagged(leaf):
            return resample(leaf, torch.zeros(len(leaf.keys()), 2, dtype=torch.int64))
        batched = isinstance(leaf, torch.Tensor) and leaf.ndim and leaf.shape[0] == 1
        return torch.cat([leaf, leaf]) if batched else leaf

    widened: list[Any] = pytree.tree_map(widen, list(values), is_leaf=is_jagged)
    return widened


def infer_dynamic_shapes(values: Any, max_batch: int) -> Any:
    """Marks dimension 0 of every tensor as the batch when it has the batch's size.

    Args:
        values: The parameter values, nested as the user nests them.
        max_batch: The largest batch the captured model shall take.

    Returns:
        The same nesting with `{0: Dim("batch", min=1, max=max_batch)}` or None at each leaf.

    Raises:
        InputError: The example batch is larger than `max_batch`.
    """
    leaves, spec = pytree.tree_flatten(values, is_leaf=is_jagged)
    size = batch_size(values)
    if size is not None and size > max_batch:
        raise InputError(
            f"the example batch has {size} rows, more than max_batch={max_batch}",
            hint="give a smaller example or a larger max_batch",
        )
    dim = torch.export.Dim(BATCH, min=1, max=max_batch)
    marks: list[Any] = []
    for leaf in leaves:
        if is_jagged(leaf):
            marks.append(dynamic_shapes(leaf, dim, f"jagged{len(marks)}"))
        else:
            batched = isinstance(leaf, torch.Tensor) and leaf.ndim and leaf.shape[0] == size
            marks.append({0: dim} if batched else None)
    return _in_export_form(spec, iter(marks))


def _in_export_form(spec: pytree.TreeSpec, marks: Iterator[Any]) -> Any:
    """Marks nested as torch.export wants them: built-in containers as they are, any other as a list of its parts."""
    if spec.is_leaf():
        return next(marks)
    parts = [_in_export_form(child, marks) for child in spec.children()]
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
