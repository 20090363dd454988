"""TorchRec's KeyedJaggedTensor and JaggedTensor as inputs: their batch, their dynamic sizes, and resampled copies."""

from __future__ import annotations

from typing import Any

import torch

from recfx.ir.bags import ragged_range
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
    """The number of pytree leaves of a part of the inputs; 1 for a part that is not a jagged tensor."""
    return LEAVES[container_kind(type(value)) or ""] if is_jagged(value) else 1


def row_keys(value: Any) -> int:
    """The number of keys of a jagged tensor; 1 for a JaggedTensor."""
    return 1 if container_kind(type(value)) == JAGGED else len(value.keys())


def rows(value: Any) -> int:
    """The batch size of a jagged tensor: the number of rows that a model computes from it."""
    leaves = defining_leaves(value)
    if container_kind(type(value)) == JAGGED:
        return 0 if leaves[LENGTHS] is None else len(leaves[LENGTHS])
    return int(leaves[INVERSE].shape[1]) if leaves[INVERSE] is not None else int(value.stride())


def batch_leaf(value: Any) -> tuple[int, int] | None:
    """The leaf of a jagged tensor with the batch dimension, and that dimension; None where no leaf has it."""
    leaves = defining_leaves(value)
    if container_kind(type(value)) == JAGGED:
        return None if leaves[LENGTHS] is None else (LENGTHS, 0)
    if leaves[INVERSE] is not None:
        return INVERSE, 1
    return None if leaves[STRIDES] is not None else (LENGTHS, 0)


def dynamic_shapes(value: Any, batch: Any, name: str) -> list[Any]:
    """The dynamic dimensions of a jagged tensor's leaves: bags vary with the batch, values have a dimension of their own.

    With inverse indices, the batch is a dimension of the indices, and the number of bags is a dimension of its own, equal for all keys
    unless each key has its own stride.
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

    Rows that share a bag through inverse indices still share it. Each key keeps only the picked bags, as in a batch without repeated bags.

    Args:
        value: The jagged tensor.
        picks: Row numbers below the batch of `value`, int64 [keys, new batch]; one key for a JaggedTensor.
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
    """Gives every key the same number of bags, by repeating its first bag; adapts the places."""
    size = max(len(bags) for bags in chosen) + 1
    return [torch.cat([bags[:1].expand(size - len(bags)), bags]) for bags in chosen], [
        place + size - len(bags) for bags, place in zip(chosen, places, strict=True)
    ]


def _take(leaves: list[Any], strides: list[int], chosen: list[torch.Tensor]) -> list[Any]:
    """The leaves of a jagged tensor with the chosen bags of each key."""
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
