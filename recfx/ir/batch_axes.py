"""The place of the batch in the inputs, when it is not the first dimension of each.

Ids may be flattened to `[61 * batch]`, a state may be `[layers, batch, width]`, a sequence `[length, batch]`, and an integer may be the
batch size. One example cannot tell these apart. The user's model is therefore run on inputs of another batch size: an arrangement is
right when the model accepts it.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch

from recfx.ir.leaves import LeafSpec
from recfx.ir.shapes import BATCH
from recfx.ir.sizes import linear_size

_MOST_TRIALS = 64


@dataclasses.dataclass(frozen=True)
class Axis:
    """The batch in a tensor: dimension `dim` has `step` entries for each row."""

    dim: int
    step: int = 1

    @property
    def size(self) -> str:
        """The size of the dimension, as it appears in signatures."""
        return BATCH if self.step == 1 else f"{self.step}*{BATCH}"


@dataclasses.dataclass(frozen=True)
class Arrangement:
    """The place of the batch in every leaf.

    Attributes:
        axes: The batch axis of each leaf; None for a leaf without rows.
        sizes: Positions of the leaves that are integers equal to the batch size.
    """

    axes: tuple[Axis | None, ...]
    sizes: frozenset[int]

    def plain(self) -> bool:
        """Whether every batch axis is dimension 0 with one entry for each row."""
        return not self.sizes and all(axis is None or axis == Axis(0) for axis in self.axes)

    def resized(self, leaves: Sequence[Any], rows: int, batch: int) -> list[Any]:
        """Inputs of another batch size, whose rows repeat the example's rows in order.

        Args:
            leaves: The example.
            rows: The batch size of the example.
            batch: The new batch size.
        """
        picks = torch.arange(batch) % rows
        found: list[Any] = []
        for position, (leaf, axis) in enumerate(zip(leaves, self.axes, strict=True)):
            if position in self.sizes:
                found.append(batch)
            else:
                found.append(leaf if axis is None else pick_rows(leaf, axis, picks))
        return found


def pick_rows(leaf: torch.Tensor, axis: Axis, picks: torch.Tensor) -> torch.Tensor:
    """The rows `picks` of a tensor, all entries of a row together."""
    sizes = list(leaf.shape)
    rows = sizes[axis.dim] // axis.step
    apart = leaf.reshape([*sizes[: axis.dim], rows, axis.step, *sizes[axis.dim + 1 :]])
    picked = apart.index_select(axis.dim, picks.to(leaf.device))
    return picked.flatten(axis.dim, axis.dim + 1)


def batch_axis(spec: LeafSpec) -> Axis | None:
    """The batch axis of a leaf of a signature; None without one, or when a size is not a plain multiple of the batch."""
    for dim, size in enumerate(spec.shape):
        if (
            isinstance(size, str)
            and (found := linear_size(size, ())) is not None
            and found[0] == BATCH
            and not found[2]
        ):
            return Axis(dim, found[1])
    return None


def find_arrangement(run: Callable[[Sequence[Any]], Any], leaves: Sequence[Any], rows: int) -> Arrangement | None:
    """The first arrangement with which the model accepts another batch size; None when every arrangement fails.

    Args:
        run: Runs the user's model on flat inputs.
        leaves: The example.
        rows: The batch size of the example.
    """
    options = [_options(leaf, rows) for leaf in leaves]
    for choice in itertools.islice(itertools.product(*options), _MOST_TRIALS):
        axes = tuple(c if isinstance(c, Axis) else None for c in choice)
        arrangement = Arrangement(axes, frozenset(i for i, c in enumerate(choice) if c == BATCH))
        if all(_takes(run, arrangement.resized(leaves, rows, batch)) for batch in (rows + 1, 2 * rows + 3)):
            return arrangement
    return None


def _options(leaf: Any, rows: int) -> list[Axis | str | None]:
    """The possible places of the batch in a leaf, the most likely first."""
    if isinstance(leaf, int) and not isinstance(leaf, bool):
        return [BATCH, None] if leaf == rows else [None]
    if not isinstance(leaf, torch.Tensor) or not leaf.ndim:
        return [None]
    if leaf.shape[0] == rows > 1:
        return [Axis(0), None]
    found: list[Axis | str | None] = [Axis(dim) for dim in range(leaf.ndim) if leaf.shape[dim] == rows]
    if leaf.shape[0] > rows and leaf.shape[0] % rows == 0:
        found.append(Axis(0, leaf.shape[0] // rows))
    return [*found, None]


def _takes(run: Callable[[Sequence[Any]], Any], leaves: Sequence[Any]) -> bool:
    try:
        with torch.no_grad():
            run(leaves)
    except Exception:  # noqa: BLE001 - any error of the model shows that the batch is elsewhere
        return False
    return True
