"""Examples of one row whose batch is not only in first dimensions: a sequence `[length, 1]`, or an integer `batch_size=1`.

A size of one may be a batch of one row or a fixed size: `[50, 1]` is also a weight for each position. The user's model decides. A place is
taken for the batch if the model accepts several different rows there and gives for each row what it gives for that row alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from recfx.capture.arranged_call import ArrangedCall
from recfx.capture.crosscheck import run_model
from recfx.capture.inputs import Call, leaf_names
from recfx.capture.size_inputs import may_be_size
from recfx.ir.batch_axes import Arrangement, Axis
from recfx.ir.jagged import is_jagged
from recfx.ir.shapes import BATCH, batch_size

_MOST_TRIALS = 16
_ROWS = 3

#: The largest difference between a row in a batch and the row alone, as a share of the largest value.
_NEAR = 1e-4

_Place = Axis | str | None


def one_row_call(model: torch.nn.Module, call: Call) -> ArrangedCall | None:
    """A call of one row, and where its batch is; None when first dimensions hold the whole batch, or no other place is proved.

    Args:
        model: The user's model, which is run on a few rows.
        call: The call.
    """
    values = tuple(call.values)
    if any(is_jagged(part) for part in pytree.tree_leaves(values, is_leaf=is_jagged)) or batch_size(values) != 1:
        return None
    leaves = pytree.tree_leaves(values)
    options = [_options(leaf, name) for leaf, name in zip(leaves, leaf_names(call), strict=True)]
    for places in itertools.islice(itertools.product(*options), _MOST_TRIALS):
        axes = tuple(place if isinstance(place, Axis) else None for place in places)
        arrangement = Arrangement(axes, frozenset(i for i, place in enumerate(places) if place == BATCH))
        if arrangement.plain():
            return None
        if _is_proved(lambda given: run_model(model, call, given), leaves, arrangement):
            return ArrangedCall(call, arrangement, 1)
    return None


def found_notices(place: ArrangedCall | None) -> list[str]:
    """Notices about the inputs of one row that hold the batch elsewhere than in dimension 0."""
    if place is None:
        return []
    names = leaf_names(place.call)
    found = [
        f"{name} in dimension {axis.dim}"
        for name, axis in zip(names, place.arrangement.axes, strict=True)
        if axis is not None and axis.dim
    ]
    found += [f"{names[leaf]} as its size" for leaf in sorted(place.arrangement.sizes)]
    return [f"the example has one row, and these inputs hold the batch: {', '.join(found)}"]


def _options(leaf: Any, name: str) -> list[_Place]:
    """The possible places of the batch in a leaf; the batch elsewhere than in a first dimension comes first."""
    if isinstance(leaf, torch.Tensor):
        if leaf.ndim and leaf.shape[0] == 1:
            return [Axis(0)]
        return [*(Axis(dim) for dim in range(1, leaf.ndim) if leaf.shape[dim] == 1), None]
    return [BATCH, None] if leaf == 1 and may_be_size(name, leaf) else [None]


def _is_proved(run: Callable[[Sequence[Any]], list[Any]], leaves: Sequence[Any], arrangement: Arrangement) -> bool:
    """Whether the model gives for several rows at once what it gives for each row alone."""
    rows = [_other_row(leaves, arrangement, row) for row in range(_ROWS)]
    together = [
        _ROWS if place in arrangement.sizes else parts[0] if axis is None else torch.cat(parts, axis.dim)
        for place, (axis, *parts) in enumerate(zip(arrangement.axes, *rows, strict=True))
    ]
    try:
        with torch.no_grad():
            whole, *alone = (pytree.tree_leaves(run(given)) for given in (together, *rows))
    except Exception:  # noqa: BLE001 - any error of the model shows that the batch is elsewhere
        return False
    if any(len(found) != len(whole) for found in alone):
        return False
    found = [_agrees(one, parts) for one, *parts in zip(whole, *alone, strict=True)]
    return all(agrees for agrees, _ in found) and any(has_rows for _, has_rows in found)


def _other_row(leaves: Sequence[Any], arrangement: Arrangement, number: int) -> list[Any]:
    """The row of the example (number 0), or one with other entries of the same tensors in the places to prove.

    Tensors with the batch first keep their row: their columns may be ids of different tables.
    """
    found = list(leaves)
    for place, axis in enumerate(arrangement.axes):
        if axis is not None and axis.dim:
            leaf = leaves[place]
            entries = torch.arange(leaf.numel())
            # Some entries twice, others never, so that sums, means and extremes over the entries differ as well.
            drawn = (number * entries * entries + entries + number) % max(1, leaf.numel())
            other = leaf.reshape(-1)[drawn.to(leaf.device)].reshape(leaf.shape) if number else leaf
            found[place] = other * (1 + number / 2) if leaf.is_floating_point() else other
    return found


def _agrees(whole: Any, alone: Sequence[Any]) -> tuple[bool, bool]:
    """Whether an output of several rows holds those of single rows, and whether it has a dimension of rows."""
    if not isinstance(whole, torch.Tensor) or not all(isinstance(one, torch.Tensor) for one in alone):
        same = all(type(one) is type(whole) and one == whole for one in alone)
        return same, False
    if any(one.ndim != whole.ndim for one in alone):
        return False, False
    dims = [dim for dim in range(whole.ndim) if any(one.shape[dim] != whole.shape[dim] for one in alone)]
    if not dims:
        return all(_near(one, whole) for one in alone), False
    if len(dims) > 1 or whole.shape[dims[0]] != len(alone) or any(one.shape[dims[0]] != 1 for one in alone):
        return False, False
    return all(_near(one, whole.narrow(dims[0], row, 1)) for row, one in enumerate(alone)), True


def _near(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not a.dtype.is_floating_point:
        return torch.equal(a, b)
    largest = float(a.detach().nan_to_num(0, 0, 0).abs().max()) if a.numel() else 0.0
    return torch.allclose(a, b, rtol=_NEAR, atol=_NEAR * largest, equal_nan=True)
