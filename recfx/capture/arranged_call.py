"""Calls whose inputs hold the batch elsewhere than once in each first dimension, such as ids `[61 * batch]`."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from recfx.capture.crosscheck import run_model
from recfx.capture.inputs import Call
from recfx.ir.batch_axes import Arrangement, Axis, find_arrangement
from recfx.ir.jagged import is_jagged
from recfx.ir.shapes import BATCH, batch_size, in_export_form


@dataclasses.dataclass(frozen=True)
class ArrangedCall:
    """A call, and where its batch is.

    Attributes:
        call: The call.
        arrangement: The place of the batch in each leaf.
        rows: The batch size.
    """

    call: Call
    arrangement: Arrangement
    rows: int

    @property
    def leaves(self) -> list[Any]:
        """The leaves of the inputs."""
        return pytree.tree_leaves(tuple(self.call.values))

    @property
    def is_complete(self) -> bool:
        """Whether every tensor has rows."""
        tensors = [isinstance(leaf, torch.Tensor) and leaf.ndim > 0 for leaf in self.leaves]
        return all(axis is not None for axis, held in zip(self.arrangement.axes, tensors, strict=True) if held)

    @property
    def is_default(self) -> bool:
        """Whether the batch is where a trace without a search frees it: every first dimension of the size of the first one."""
        first = batch_size(self.call.values)
        firsts = [
            Axis(0) if isinstance(leaf, torch.Tensor) and leaf.shape[:1] == (first,) else None for leaf in self.leaves
        ]
        return not self.arrangement.sizes and self.rows == first and list(self.arrangement.axes) == firsts

    def resized(self, rows: int) -> ArrangedCall:
        """The call with another number of rows, which repeat those of this one."""
        spec = pytree.tree_structure(tuple(self.call.values))
        leaves = self.arrangement.resized(self.leaves, self.rows, rows)
        call = self.call.with_values(pytree.tree_unflatten(leaves, spec))
        return dataclasses.replace(self, call=call, rows=rows)

    def with_more_rows(self) -> ArrangedCall:
        """The call with a number of rows that is the size of no other dimension."""
        sizes = {size for leaf in self.leaves if isinstance(leaf, torch.Tensor) for size in leaf.shape}
        return self.resized(next(rows for rows in itertools.count(3, 2) if rows not in sizes))

    def gives_rows(self, model: torch.nn.Module) -> bool:
        """Whether an output of the model has a number of entries for each row in its first dimension.

        A literal size, as in `x.reshape(6, -1)`, also accepts only multiples of six, but gives six rows for each of them.
        """
        firsts = [_first_sizes(model, self.resized(rows)) for rows in (2, 5)]
        return len(firsts[0]) == len(firsts[1]) and any(a and 5 * a == 2 * b for a, b in zip(*firsts, strict=True))

    def marks(self, max_batch: int) -> Any:
        """The dynamic dimensions of each parameter, in torch.export's form."""
        dim = torch.export.Dim(BATCH, min=1, max=max_batch)
        marks = [
            None if axis is None else {axis.dim: dim if axis.step == 1 else axis.step * dim}
            for axis in self.arrangement.axes
        ]
        return in_export_form(pytree.tree_structure(tuple(self.call.values)), iter(marks))


def _first_sizes(model: torch.nn.Module, sized: ArrangedCall) -> list[int]:
    with torch.no_grad():
        outputs = pytree.tree_leaves(run_model(model, sized.call, sized.leaves))
    return [int(leaf.shape[0]) for leaf in outputs if isinstance(leaf, torch.Tensor) and leaf.ndim]


def arranged_call(model: torch.nn.Module, call: Call, rows: Sequence[int]) -> ArrangedCall | None:
    """A call with the first of some batch sizes for which the model shows where the batch is; None without one.

    Args:
        model: The user's model, which is run on inputs of other batch sizes.
        call: The call.
        rows: The batch sizes that the call may have.
    """
    values = tuple(call.values)
    if any(is_jagged(part) for part in pytree.tree_leaves(values, is_leaf=is_jagged)):
        return None
    leaves = pytree.tree_leaves(values)
    for number in dict.fromkeys(rows):
        arrangement = find_arrangement(lambda given: run_model(model, call, given), leaves, number)
        if arrangement is not None and any(arrangement.axes):
            return ArrangedCall(call, arrangement, number)
    return None


def batch_sizes(call: Call) -> list[int]:
    """The batch sizes that a call may have: the first dimensions of its tensors, and one row with several entries at last."""
    tensors = [leaf for leaf in pytree.tree_leaves(tuple(call.values)) if isinstance(leaf, torch.Tensor) and leaf.ndim]
    sizes = dict.fromkeys(int(tensor.shape[0]) for tensor in tensors)
    return [*(size for size in sizes if size > 1), *([1] if sizes else [])]
