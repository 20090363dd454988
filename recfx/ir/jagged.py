"""Bags of ids as inputs, in TorchRec's KeyedJaggedTensor and JaggedTensor: their batch, their free sizes, and other bags like them."""

from __future__ import annotations

from typing import Any

import torch

from recfx.ir.containers import (
    INVERSE,
    JAGGED,
    KEYED_JAGGED,
    LEAVES,
    LENGTHS,
    STRIDES,
    VALUES,
    WEIGHTS,
    container_kind,
    defining_leaves,
    rebuilt,
)


def is_jagged(value: Any) -> bool:
    """Whether a value is a TorchRec KeyedJaggedTensor or JaggedTensor."""
    return container_kind(type(value)) in (KEYED_JAGGED, JAGGED)


def leaf_count(value: Any) -> int:
    """How many pytree leaves a part of the inputs has: those of a jagged tensor, one of anything else."""
    return LEAVES[container_kind(type(value)) or ""] if is_jagged(value) else 1


def row_keys(value: Any) -> int:
    """For how many keys a jagged tensor has bags; one for a JaggedTensor."""
    return 1 if container_kind(type(value)) == JAGGED else len(value.keys())


def rows(value: Any) -> int:
    """The batch size of a jagged tensor: the number of rows that a model computes from its bags."""
    leaves = defining_leaves(value)
    if container_kind(type(value)) == JAGGED:
        return 0 if leaves[LENGTHS] is None else len(leaves[LENGTHS])
    return int(leaves[INVERSE].shape[1]) if leaves[INVERSE] is not None else int(value.stride())


def batch_leaf(value: Any) -> tuple[int, int] | None:
    """The leaf of a jagged tensor that has the batch, and its dimension; None where no leaf has it."""
    leaves = defining_leaves(value)
    if container_kind(type(value)) == JAGGED:
        return None if leaves[LENGTHS] is None else (LENGTHS, 0)
    if leaves[INVERSE] is not None:
        return INVERSE, 1
    return None if leaves[STRIDES] is not None else (LENGTHS, 0)


def dynamic_shapes(value: Any, batch: Any, name: str) -> list[Any]:
    """The marks of a jagged tensor's leaves: bags vary with the batch, values on their own.

    With inverse indices the batch is theirs, and the bags vary on their own, evenly over the keys unless each key has its own stride.
    """
    leaves = defining_leaves(value)
    marks: list[Any] = [None] * len(leaves)
    free = {0: torch.export.Dim(f"{name}_values", min=0)}
    marks[VALUES] = free
    marks[WEIGHTS] = free if leaves[WEIGHTS] is not None else None
    if leaves[LENGTHS] is None:
        return marks
    if container_kind(type(value)) == JAGGED:
        marks[LENGTHS] = {0: batch}
        return marks
    keys = len(value.keys())
    if leaves[STRIDES] is not None:
        marks[LENGTHS] = {0: torch.export.Dim(f"{name}_bags", min=0)}
    else:
        stride = batch if leaves[INVERSE] is None else torch.export.Dim(f"{name}_stride", min=1)
        marks[LENGTHS] = {0: stride if keys == 1 else keys * stride}
    if leaves[INVERSE] is not None:
        marks[INVERSE] = {1: batch}
    return marks


def resample(value: Any, picks: torch.Tensor) -> Any:
    """A jagged tensor whose row `r` for key `k` is row `picks[k, r]` of the given one.

    Bags that inverse indices share stay shared, as a batch without repeated bags is made: each key keeps the bags that are picked.

    Args:
        value: The jagged tensor.
        picks: Row numbers below its batch, int64 [keys, new batch]; one key for a JaggedTensor.
    """
    leaves = defining_leaves(value)
    if leaves[LENGTHS] is None:
        return value
    keys = picks.shape[0]
    per_key = leaves[LENGTHS].view(keys, -1).shape[1] if len(leaves) <= STRIDES or leaves[STRIDES] is None else None
    strides = [per_key] * keys if per_key is not None else leaves[STRIDES].sum(1).tolist()
    inverse = leaves[INVERSE] if len(leaves) > INVERSE else None
    chosen, places = [], []
    for key, row in enumerate(picks):
        bags = row % max(strides[key], 1) if inverse is None else inverse[key].long()[row]
        if inverse is not None:
            bags, place = torch.unique(bags, return_inverse=True)
            places.append(place)
        chosen.append(bags)
    if inverse is not None and per_key is not None:
        chosen, places = _evenly(chosen, places)
    changed = _take(leaves, strides, chosen)
    if inverse is not None:
        changed[INVERSE] = torch.stack(places).to(inverse.dtype)
    if per_key is None:
        counts = torch.zeros_like(leaves[STRIDES])
        counts[:, 0] = torch.tensor([len(c) for c in chosen])
        changed[STRIDES] = counts
    return rebuilt(value, changed)


def reversed_ids(value: Any) -> Any:
    """A jagged tensor of the same sizes, with the ids (and weights) of each key in reverse order."""
    leaves = defining_leaves(value)
    if leaves[LENGTHS] is None:
        return value
    keys = row_keys(value)
    strides = leaves[STRIDES] if len(leaves) > STRIDES else None
    bags = [len(leaves[LENGTHS]) // keys] * keys if strides is None else strides.sum(1).tolist()
    counts = [int(part.sum()) for part in torch.split(leaves[LENGTHS], bags)]
    changed = list(leaves)
    for leaf in (VALUES, WEIGHTS):
        if leaves[leaf] is not None:
            changed[leaf] = torch.cat([part.flip(0) for part in torch.split(leaves[leaf], counts)])
    return rebuilt(value, changed)


def _evenly(chosen: list[torch.Tensor], places: list[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The same bags with as many for each key: the first one fills up."""
    size = max(len(bags) for bags in chosen) + 1
    return [torch.cat([bags[:1].expand(size - len(bags)), bags]) for bags in chosen], [
        place + size - len(bags) for bags, place in zip(chosen, places, strict=True)
    ]


def _take(leaves: list[Any], strides: list[int], chosen: list[torch.Tensor]) -> list[Any]:
    """The leaves of a jagged tensor that has, for each key, the bags chosen among that key's."""
    lengths = leaves[LENGTHS].long()
    starts = torch.cumsum(lengths, 0) - lengths
    first = torch.tensor([sum(strides[:key]) for key in range(len(strides))])
    bags = torch.cat([rows + base for rows, base in zip(chosen, first, strict=True)])
    index = ragged_range(starts[bags], lengths[bags])
    changed = list(leaves)
    changed[VALUES] = leaves[VALUES][index]
    changed[WEIGHTS] = None if leaves[WEIGHTS] is None else leaves[WEIGHTS][index]
    changed[LENGTHS] = leaves[LENGTHS][bags]
    return changed


def ragged_range(starts: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """starts[0], starts[0]+1, ..., (lengths[0] of them), then the same for the next; int64."""
    total = int(lengths.sum())
    ends = torch.cumsum(lengths, 0)
    position = torch.arange(total) - torch.repeat_interleave(ends - lengths, lengths)
    return torch.repeat_interleave(starts, lengths) + position
