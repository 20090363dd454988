"""The columns of the highest values in every row of a wide matrix."""

from __future__ import annotations

import torch
from torch import Tensor

_WIDEST = 64


def chunk_width(columns: int, depth: int) -> int:
    """The number of columns in a chunk for `top_columns`; 1 means no chunks.

    The best `depth` values lie in the `depth` chunks with the highest maxima. To find these chunks, one pass computes
    the maxima, and a selection runs on few values. This pays if there are several times `depth` chunks.
    """
    width = _WIDEST
    while width > 1 and columns // width < 4 * depth:
        width //= 2
    return width if width >= 8 else 1


def top_columns(scores: Tensor, depth: int, width: int) -> Tensor:
    """The columns of the highest values in each row, with equal values in order of column.

    Args:
        scores: [n, c * width], without NaN. Minus infinity excludes a column; the order of excluded columns is undefined.
        depth: The number of columns to return, at most the number of columns of `scores`.
        width: The number of columns in a chunk, from `chunk_width`.

    Returns:
        Column numbers, int64 [n, depth].
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
    # topk returns equal scores in any order. The few rows with equal scores are sorted again.
    tied = ((values[:, 1:] == values[:, :-1]) & (values[:, 1:] > -torch.inf)).any(1)
    if tied.any():
        ids = ids.clone()
        ids[tied] = _ordered(scores[tied], depth, width)
    return ids


def _ordered(scores: Tensor, depth: int, width: int) -> Tensor:
    """The columns [n, depth] of the highest values, with equal values in order of column.

    Only the first `depth` chunks, by falling maximum and then by column, can contain them: each of these chunks has a
    better column than any column outside.
    """
    if width > 1 and scores.shape[1] // width >= depth:
        chunks = scores.reshape(len(scores), -1, width)
        best = _sorted(chunks.amax(2))[:, :depth].sort(dim=1).values
        candidates = chunks.gather(1, best.unsqueeze(2).expand(-1, -1, width)).flatten(1)
        places = _sorted(candidates)[:, :depth]
        return best.gather(1, places // width) * width + places % width
    return _sorted(scores)[:, :depth]


def _sorted(values: Tensor) -> Tensor:
    """All columns of every row by falling value, with equal values in order of column."""
    return values.sort(dim=1, descending=True, stable=True).indices
