"""TorchRec's KeyedJaggedTensor as an input.

A KeyedJaggedTensor caches what it computes (offsets, lengths per key), and its caches are part of its pytree: traced after a
first use, it refuses unused ones, and the other way round. At the boundary every one is therefore rebuilt from its keys, values,
lengths and weights alone.
TorchRec itself is never imported here: whoever passes such a tensor has imported it.
"""

from __future__ import annotations

from typing import Any

import torch

#: Position of a KeyedJaggedTensor's parts among its pytree leaves, and how many leaves it has.
VALUES, WEIGHTS, LENGTHS, PARTS = 0, 1, 2, 6


def is_jagged(value: Any) -> bool:
    """Whether a value is a TorchRec KeyedJaggedTensor."""
    return is_jagged_type(type(value))


def is_jagged_type(type_: Any) -> bool:
    """Whether a type is TorchRec's KeyedJaggedTensor."""
    return getattr(type_, "__name__", "") == "KeyedJaggedTensor" and str(type_.__module__).startswith("torchrec.")


def without_caches(value: Any) -> Any:
    """The same jagged tensor as if it had just been made; any other value as it is."""
    if not is_jagged(value):
        return value
    return type(value)(
        keys=value.keys(), values=value.values(), lengths=value.lengths(), weights=value.weights_or_none()
    )


def rows(value: Any) -> int:
    """The batch size of a jagged tensor."""
    return int(value.stride())


def dynamic_shapes(value: Any, batch: Any, name: str) -> list[Any]:
    """The marks of a jagged tensor's parts: lengths vary with the batch, values on their own."""
    keys = len(value.keys())
    free = {0: torch.export.Dim(f"{name}_values", min=0)}
    weights = free if value.weights_or_none() is not None else None
    marks: list[Any] = [None] * PARTS
    marks[VALUES], marks[WEIGHTS] = free, weights
    marks[LENGTHS] = {0: batch if keys == 1 else keys * batch}
    return marks


def resample(value: Any, picks: torch.Tensor) -> Any:
    """A jagged tensor whose bag (key, row) is the bag (key, picks[key, row]) of the given one.

    Args:
        value: The jagged tensor, `keys` by `batch` bags.
        picks: Row numbers, int64 [keys, new batch].
    """
    keys, batch = len(value.keys()), rows(value)
    lengths = value.lengths().view(keys, batch).long()
    starts = (torch.cumsum(lengths.view(-1), 0) - lengths.view(-1)).view(keys, batch)
    chosen = lengths.gather(1, picks)
    first = starts.gather(1, picks)
    index = ragged_range(first.reshape(-1), chosen.reshape(-1))
    weights = value.weights_or_none()
    return type(value)(
        keys=value.keys(),
        values=value.values()[index],
        lengths=chosen.reshape(-1).to(value.lengths().dtype),
        weights=None if weights is None else weights[index],
    )


def ragged_range(starts: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """starts[0], starts[0]+1, ..., (lengths[0] of them), then the same for the next; int64."""
    total = int(lengths.sum())
    ends = torch.cumsum(lengths, 0)
    position = torch.arange(total) - torch.repeat_interleave(ends - lengths, lengths)
    return torch.repeat_interleave(starts, lengths) + position
