"""The best columns of every row of a wide matrix."""

from __future__ import annotations

import torch
from torch import Tensor

_WIDEST = 64


def chunk_width(columns: int, depth: int) -> int:
    """Columns in a chunk for `top_columns`: 1 where columns are not chunked.

    The best `depth` values lie in the `depth` chunks of the highest maxima. Finding those takes one pass of maxima and a
    selection among few; it pays where the chunks are several times as many.
    """
    width = _WIDEST
    while width > 1 and columns // width < 4 * depth:
        width //= 2
    return width if width >= 8 else 1


def top_columns(scores: Tensor, depth: int, width: int) -> Tensor:
    """The columns of the highest values, equal values by rising column.

    Args:
        scores: [n, c * width], no NaN. Minus infinity where a column must not count: the order of those is any.
        depth: How many, at most the number of columns.
        width: Columns in a chunk, see `chunk_width`.

    Returns:
        int64 [n, depth].
    """
    more = min(depth + 1, scores.shape[1])
    if width == 1 or scores.shape[1] // width < more:
        values, ids = scores.topk(more, dim=1)
    else:
        chunks = scores.reshape(len(scores), -1, width)
        best = chunks.amax(2).topk(more, dim=1, sorted=False).indices
        candidates = chunks.gather(1, best.unsqueeze(2).expand(-1, -1, width)).flatten(1)
        values, places = candidates.topk(more, dim=1)
        ids = best.gather(1, places // width) * width + places % width
    ids = ids[:, :depth]
    # Equal scores come in any order; the few rows that have some are ordered anew.
    tied = ((values[:, 1:] == values[:, :-1]) & (values[:, 1:] > -torch.inf)).any(1)
    if tied.any():
        ids = ids.clone()
        ids[tied] = _ordered(scores[tied], depth, width)
    return ids


def _ordered(scores: Tensor, depth: int, width: int) -> Tensor:
    """The columns [n, depth] of the highest values, equal values by rising column.

    A column outside the first `depth` chunks, those of equal maxima by rising column, has a better column in each of them.
    """
    if width > 1 and scores.shape[1] // width >= depth:
        chunks = scores.reshape(len(scores), -1, width)
        best = _sorted(chunks.amax(2))[:, :depth].sort(dim=1).values
        candidates = chunks.gather(1, best.unsqueeze(2).expand(-1, -1, width)).flatten(1)
        places = _sorted(candidates)[:, :depth]
        return best.gather(1, places // width) * width + places % width
    return _sorted(scores)[:, :depth]


def _sorted(values: Tensor) -> Tensor:
    """The columns of every row by falling value, equal values by rising column."""
    return values.sort(dim=1, descending=True, stable=True).indices
