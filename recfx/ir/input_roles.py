"""The roles of a program's inputs: ids of tables, histories, lengths of histories, flags, measurements, bags.

Roles follow from the graph (the columns that a lookup reads) and from the example (values that are only 0 and 1, lengths that count the
ids of a history without padding).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from recfx.ir.bags import Bags
from recfx.ir.id_ranges import IdRange, id_ranges
from recfx.ir.jagged_bags import all_bags
from recfx.ir.program import Program
from recfx.ir.shapes import BATCH

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


@dataclasses.dataclass(frozen=True)
class Roles:
    """The roles of leaves, by position.

    Attributes:
        batched: Leaves with one row for each row of the batch along dimension 0.
        ranges: Leaves that a lookup reads -> the ids that their columns can hold. A column is a place of a row, or a run of bags.
        histories: Integer leaves [..., L] whose last dimension lists ids of one kind -> their padding id.
        lengths: Integer leaves [B] or [B, 1] that may be lengths -> (the history, whether the example's values count its ids).
        flags: Leaves of bools, or of only 0 and 1 -> (the history whose padding ids the leaf marks, whether a mark is True); None
            without such a history.
        floats: Leaves of measurements: floating-point leaves that are not flags and have columns that no lookup reads.
        bags: Bags, including those of jagged tensors.
    """

    batched: frozenset[int]
    ranges: dict[int, IdRange]
    histories: dict[int, int]
    lengths: dict[int, tuple[int, bool]]
    flags: dict[int, tuple[int, bool] | None]
    floats: frozenset[int]
    bags: tuple[Bags, ...]


def input_roles(program: Program) -> Roles:
    """The roles of a program's inputs."""
    leaves = program.example
    bags = all_bags(program)
    held = {leaf for group in bags for leaf in (group.bounds, *group.members)}
    batched = frozenset(i for i in _batched(program) if i not in held)
    ranges = id_ranges(program, bags, _columns(leaves, batched, bags))
    histories = {i: padding for i in batched if (padding := _history_padding(leaves[i], ranges.get(i))) is not None}
    flags = {i: _marks(leaves, i, histories) for i in batched if _is_flag(leaves[i]) and i not in ranges}
    lengths = {
        i: found
        for i in batched
        if i not in ranges and i not in flags and (found := _length_of(leaves, i, histories)) is not None
    }
    members = {leaf for group in bags for leaf in group.members}
    floats = frozenset(
        i for i in (*batched, *members) if leaves[i].is_floating_point() and i not in flags and not _all_ids(ranges, i)
    )
    return Roles(batched, ranges, histories, lengths, flags, floats, bags)


def _batched(program: Program) -> list[int]:
    """The leaves with rows of the batch: by the signature; when all sizes are fixed, by the size of dimension 0."""
    signature = program.signature
    tensors = [i for i, leaf in enumerate(program.example) if isinstance(leaf, torch.Tensor) and leaf.ndim]
    tensors = [i for i in tensors if program.example[i].device.type == "cpu"]
    if BATCH in signature.dims:
        return [i for i in tensors if signature.leaves[i].shape[0] == BATCH]
    size = program.example_batch()
    return [i for i in tensors if program.example[i].shape[0] == size]


def _columns(leaves: Any, batched: frozenset[int], bags: tuple[Bags, ...]) -> dict[int, torch.Tensor]:
    """The column of every element of a leaf: its place in the row, or the run of its bag."""
    found: dict[int, torch.Tensor] = {}
    for leaf in batched:
        width = leaves[leaf][0].numel() if len(leaves[leaf]) else 0
        found[leaf] = torch.arange(width).expand(leaves[leaf].shape[0], width).reshape(leaves[leaf].shape)
    for group in bags:
        lengths = group.lengths(leaves)
        runs = torch.arange(group.runs).unsqueeze(1).expand_as(lengths)
        for stream, run, own in zip(
            group.streams, *(t.chunk(len(group.streams)) for t in (runs, lengths)), strict=True
        ):
            inside = group.in_leaf_order(own, torch.repeat_interleave(run.reshape(-1), own.reshape(-1)))
            for leaf in stream.leaves:
                shape = leaves[leaf].shape
                labels = found.setdefault(leaf, torch.full(shape, int(run.reshape(-1)[-1])))
                target = labels if stream.row is None else labels[stream.row]
                target[: len(inside)] = inside.reshape(-1, *[1] * (target.ndim - 1))
    return found


def _history_padding(leaf: torch.Tensor, ranges: IdRange | None) -> int | None:
    """The padding id of a leaf [..., L] that lists ids of one kind; None for any other leaf."""
    if leaf.dtype not in _INTEGERS or leaf.ndim < 2 or leaf.shape[-1] < 2 or not leaf.numel():
        return None
    if ranges is None:
        return 0 if bool((leaf == 0).any()) else None
    for column in (ranges.low, ranges.high, ranges.padding):
        last = column.reshape(*leaf.shape[1:])
        if not bool((last == last[..., :1]).all()):
            return None
    low, high, padding = (int(column[0]) for column in (ranges.low, ranges.high, ranges.padding))
    if high < low:
        return None
    return padding if low <= padding <= high and padding >= 0 else min(max(0, low), high)


def _is_flag(leaf: torch.Tensor) -> bool:
    return leaf.dtype is torch.bool or bool(((leaf == 0) | (leaf == 1)).all())


def _marks(leaves: Any, position: int, histories: dict[int, int]) -> tuple[int, bool] | None:
    """The history whose padding ids a leaf marks, and the value of the mark; None without such a history."""
    leaf = leaves[position].bool()
    for history, padding in histories.items():
        pads = leaves[history] == padding
        if leaf.shape == pads.shape and bool(pads.any()) and not bool(pads.all()):
            if torch.equal(leaf, pads):
                return history, True
            if torch.equal(leaf, ~pads):
                return history, False
    return None


def _length_of(leaves: Any, position: int, histories: dict[int, int]) -> tuple[int, bool] | None:
    """The history whose lengths a leaf may hold, and whether the example's values count its ids without padding."""
    leaf = leaves[position]
    if leaf.dtype not in _INTEGERS or leaf.numel() != leaf.shape[0] or not leaf.numel():
        return None
    fitting = []
    for history, padding in histories.items():
        ids = leaves[history]
        counts = (ids != padding).sum(-1)
        if ids.ndim == 2 and torch.equal(leaf.reshape(-1).long(), counts):
            return history, True
        if int(leaf.min()) >= 0 and int(leaf.max()) <= ids.shape[-1]:
            fitting.append(history)
    return (fitting[0], False) if fitting else None


def _all_ids(ranges: dict[int, IdRange], leaf: int) -> bool:
    return leaf in ranges and bool(ranges[leaf].known.all())
