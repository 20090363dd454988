"""Bags: groups of inputs, of which one holds the bounds of bags and the others hold one entry for each id.

Ids and the offsets (or lengths) of their bags must be drawn, repeated and enlarged together. Positions refer to the flat leaves of the
inputs. A run holds one bag for each row of the batch, such as one key of a KeyedJaggedTensor or one row of a matrix of offsets. Bounds
list one run after another. Lengths [B, runs] and their ids list one row after another instead.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Any

import torch

#: Why ids after the last offset are refused. Which of them torch adds or counts also depends on the dtype of the table.
IDS_BEHIND_BAGS = (
    "torch's embedding_bag counts ids after the last offset in the last bag, unless it sums without padding_idx"
)


class Form(Enum):
    """The content of bounds: the length of every bag, the start of every bag, or the starts and then the number of ids."""

    LENGTHS = "lengths"
    OFFSETS = "offsets"
    SPLITS = "splits"


@dataclasses.dataclass(frozen=True)
class Stream:
    """Leaves that hold one entry for each id of the same bags.

    Attributes:
        leaves: The positions of the leaves (ids, weights). Their first dimension counts the ids, unless `row` is given.
        row: The row of these bags in leaves [T, ids] that several streams share; None for leaves of one stream.
    """

    leaves: tuple[int, ...]
    row: int | None = None


@dataclasses.dataclass(frozen=True)
class Bags:
    """The bounds of bags, and the ids inside them.

    Attributes:
        bounds: Position of the leaf with the bounds, [runs * B] or [runs, B]; SPLITS have one more entry for each stream.
        form: The content of the bounds.
        runs: The number of runs of B bags.
        streams: The lists of ids. Each holds the ids of `runs / len(streams)` runs, one run after another.
        by_row: Whether the bounds are lengths [B, runs] and the ids of a row lie together. Such bags have one stream.
    """

    bounds: int
    form: Form
    runs: int
    streams: tuple[Stream, ...]
    by_row: bool = False

    @property
    def members(self) -> list[int]:
        """The leaves that hold one entry for each id, each once."""
        return list(dict.fromkeys(leaf for stream in self.streams for leaf in stream.leaves))

    def batch(self, leaves: Sequence[Any]) -> int:
        """The number of bags of a run."""
        width = leaves[self.bounds].numel() // len(self.streams) - (self.form is Form.SPLITS)
        return int(width * len(self.streams) // self.runs)

    def count(self, leaves: Sequence[Any], stream: Stream) -> int | None:
        """The number of ids of a stream; None when no leaf holds them."""
        if not stream.leaves:
            return None
        return int(leaves[stream.leaves[0]].shape[0 if stream.row is None else 1])

    def lengths(self, leaves: Sequence[Any]) -> torch.Tensor:
        """The length of every bag, int64 [runs, B]."""
        bounds: torch.Tensor = leaves[self.bounds].detach().cpu().long().reshape(len(self.streams), -1)
        if self.by_row:
            return bounds.reshape(-1, self.runs).T.contiguous()
        if self.form is Form.LENGTHS:
            return bounds.reshape(self.runs, -1)
        if self.form is Form.OFFSETS:
            counts = [self.count(leaves, stream) for stream in self.streams]
            ends = [int(row[-1]) if n is None else n for row, n in zip(bounds, counts, strict=True)]
            bounds = torch.cat([bounds, torch.tensor(ends).unsqueeze(1)], 1)
        return bounds.diff(dim=1).reshape(self.runs, -1)

    def are_valid(self, leaves: Sequence[Any]) -> bool:
        """Whether the bounds describe bags inside the ids: they start at 0, do not fall, and end within the ids."""
        lengths = self.lengths(leaves)
        if not lengths.numel() or bool((lengths < 0).any()):
            return False
        if self.form is not Form.LENGTHS and bool(leaves[self.bounds].reshape(len(self.streams), -1)[:, 0].any()):
            return False
        totals = lengths.reshape(len(self.streams), -1).sum(1)
        counts = [self.count(leaves, stream) for stream in self.streams]
        return all(n is None or int(total) <= n for total, n in zip(totals, counts, strict=True))

    def rows(self, leaves: Sequence[Any]) -> list[torch.Tensor]:
        """The batch row of every id inside a bag, int64, one tensor for each stream."""
        lengths = self.lengths(leaves)
        if self.by_row:
            return [torch.repeat_interleave(torch.arange(lengths.shape[1]), lengths.sum(0))]
        row = torch.arange(lengths.shape[1]).repeat(self.runs // len(self.streams))
        return [torch.repeat_interleave(row, part.reshape(-1)) for part in lengths.chunk(len(self.streams))]

    def resample(self, leaves: Sequence[Any], picks: torch.Tensor) -> dict[int, torch.Tensor]:
        """New leaves: their bag (run, row) is the bag (run, picks[run, row]) of the given leaves.

        Args:
            leaves: The flat inputs.
            picks: Row numbers, int64 [runs, new batch].

        Returns:
            Position -> the new leaf, for the bounds and all members.
        """
        lengths = self.lengths(leaves)
        chosen, index = lengths.gather(1, picks), []
        for own, new, pick in zip(*(t.chunk(len(self.streams)) for t in (lengths, chosen, picks)), strict=True):
            starts = (own.reshape(-1).cumsum(0) - own.reshape(-1)).reshape(own.shape)
            index.append(ragged_range(starts.gather(1, pick).reshape(-1), new.reshape(-1)))
        return self.take(leaves, chosen, index)

    def take(
        self, leaves: Sequence[Any], lengths: torch.Tensor, index: Sequence[torch.Tensor]
    ) -> dict[int, torch.Tensor]:
        """Leaves with bags of the given lengths and ids.

        Args:
            leaves: The flat inputs.
            lengths: The length of every bag, int64 [runs, B].
            index: For each stream the places of its ids in the given leaves, one run after another; -1 gives an entry of zero.
                A place is the number of an id, counted one run after another. The rows of a matrix hold equally many ids, so the last
                bag of a shorter row is extended.

        Returns:
            Position -> the new leaf, for the bounds and all members.
        """
        lengths, index = lengths.clone(), list(index)
        if self.by_row:
            index = [self._places_by_row(leaves, lengths, index[0])]
        for group in self._matrices():
            longest = max(len(index[s]) for s in group)
            for s in group:
                missing = longest - len(index[s])
                filler = index[s][-1:] if len(index[s]) else torch.full((1,), -1)
                index[s] = torch.cat([index[s], filler.expand(missing)])
                lengths[(s + 1) * self.runs // len(self.streams) - 1, -1] += missing
        found = {self.bounds: self._bounds(leaves[self.bounds], lengths)}
        for leaf in self.members:
            owners = [s for s, stream in enumerate(self.streams) if leaf in stream.leaves]
            if self.streams[owners[0]].row is None:
                found[leaf] = _entries(leaves[leaf], index[owners[0]])
                continue
            rows = list(leaves[leaf])
            by_row = {self.streams[s].row: index[s] for s in owners}
            spare = next(iter(by_row.values()))
            found[leaf] = torch.stack([_entries(row, by_row.get(t, spare)) for t, row in enumerate(rows)])
        return found

    def in_leaf_order(self, lengths: torch.Tensor, entries: torch.Tensor) -> torch.Tensor:
        """Reorders entries from one run after another to the order of the leaves, for bags of the given lengths [runs, B]."""
        return entries[_by_row(lengths).argsort()] if self.by_row else entries

    def _places_by_row(self, leaves: Sequence[Any], lengths: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Converts places of ids from run order to row order, both the sequence and the numbers."""
        places = _by_row(self.lengths(leaves))
        found = torch.where(index < 0, index, places[index.clamp(min=0)]) if len(places) else index
        return self.in_leaf_order(lengths, found)

    def _matrices(self) -> list[list[int]]:
        """The streams that are rows of the same matrix."""
        groups: dict[int, list[int]] = {}
        for number, stream in enumerate(self.streams):
            if stream.row is not None:
                groups.setdefault(stream.leaves[0], []).append(number)
        return list(groups.values())

    def _bounds(self, like: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        if self.by_row:
            return lengths.T.contiguous().to(like.dtype).to(like.device)
        own = lengths.reshape(len(self.streams), -1)
        if self.form is not Form.LENGTHS:
            ends = own.cumsum(1)
            own = torch.cat([torch.zeros_like(ends[:, :1]), ends if self.form is Form.SPLITS else ends[:, :-1]], 1)
        shape = [*like.shape[:-1], -1] if like.ndim > 1 else [-1]
        return own.reshape(shape).to(like.dtype).to(like.device)


def _entries(leaf: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """The entries of a leaf at the places `index`; zeros for -1."""
    index = index.to(leaf.device)
    if not leaf.shape[0]:
        return leaf.new_zeros(len(index), *leaf.shape[1:])
    found = leaf.index_select(0, index.clamp(min=0))
    found[index < 0] = 0
    return found


def ragged_range(starts: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """starts[0], starts[0]+1, ..., (lengths[0] of them), then the same for the next; int64."""
    total = int(lengths.sum())
    ends = torch.cumsum(lengths, 0)
    position = torch.arange(total) - torch.repeat_interleave(ends - lengths, lengths)
    return torch.repeat_interleave(starts, lengths) + position


def _by_row(lengths: torch.Tensor) -> torch.Tensor:
    """The place in row order of every id in run order, for bags of lengths [runs, B]."""
    rows = lengths.T.reshape(-1)
    starts = (rows.cumsum(0) - rows).reshape(lengths.shape[1], lengths.shape[0]).T
    return ragged_range(starts.reshape(-1), lengths.reshape(-1))


def distinct_counts(leaves: Sequence[Any], bags: Sequence[Bags]) -> list[Any]:
    """Flat inputs in which no number of ids equals another size.

    A tracer treats equal sizes as one size, and sizes of 0 and 1 as constants.
    """
    found = list(leaves)
    taken = {0, 1} | {size for leaf in leaves if isinstance(leaf, torch.Tensor) for size in leaf.shape}
    for group in bags:
        lengths, index = group.lengths(found).clone(), []
        per_stream = group.runs // len(group.streams)
        matrices = {s: group_[0] for group_ in group._matrices() for s in group_}
        wanted: dict[int, int] = {}
        for number, (stream, part) in enumerate(zip(group.streams, lengths.chunk(len(group.streams)), strict=True)):
            places = torch.arange(int(part.sum()))
            count = wanted.get(matrices.get(number, number), len(places))
            while count in taken and number == matrices.get(number, number):
                count += 1
            wanted[matrices.get(number, number)] = count
            if stream.leaves and count > len(places):
                lengths[(number + 1) * per_stream - 1, -1] += count - len(places)
                filler = places[-1:] if len(places) else torch.full((1,), -1)
                places = torch.cat([places, filler.expand(count - len(places))])
            index.append(places)
        for position, leaf in group.take(found, lengths, index).items():
            found[position] = leaf
        taken |= set(wanted.values())
    return found


def marks(bags: Iterable[Bags], leaves: Sequence[Any], batch: Any) -> dict[int, dict[int, Any]]:
    """The dynamic dimensions of the leaves of bags: bounds vary with the batch, ids have a dimension of their own.

    Args:
        bags: The bags.
        leaves: The flat inputs.
        batch: The `torch.export.Dim` of the batch.

    Returns:
        Position of a leaf -> dimension -> its `torch.export.Dim`.
    """
    found: dict[int, dict[int, Any]] = {}
    for group in bags:
        bounds = leaves[group.bounds]
        per_row = group.runs if bounds.ndim == 1 else group.runs // bounds.shape[0]
        size = batch if per_row == 1 or group.by_row else per_row * batch
        axis = 0 if group.by_row else bounds.ndim - 1
        found[group.bounds] = {axis: size + 1 if group.form is Form.SPLITS else size}
        for stream in group.streams:
            axis = 0 if stream.row is None else 1
            known = next((found[leaf] for leaf in stream.leaves if leaf in found), None)
            for leaf in stream.leaves:
                found[leaf] = known = known or {axis: torch.export.Dim(f"ids{leaf}", min=0)}
    return found
