"""Recall@k and NDCG@k over the full ranking of all items, training items masked.

With R the held-out items of a user and hit_i = 1 where the i-th ranked item is one of them:

    Recall@k = sum_{i<=k} hit_i / |R|
    NDCG@k   = sum_{i<=k} hit_i / log2(i + 1)  /  sum_{i<=min(k,|R|)} 1 / log2(i + 1)

both averaged over the users that have held-out items (the protocol of NGCF and LightGCN).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recfx.data.interactions import Interactions
from recfx.errors import DataError


@dataclass(frozen=True)
class RankingReport:
    """Ranking quality, averaged over users.

    Attributes:
        recall: Recall@k for each k.
        ndcg: NDCG@k for each k.
        users: Users that were measured.
        skipped: Users without a held-out item, left out.
    """

    recall: dict[int, float]
    ndcg: dict[int, float]
    users: int
    skipped: int


def evaluate_ranking(
    score: Callable[[Tensor], Tensor],
    data: Interactions,
    ks: Sequence[int] = (20, 50),
    *,
    block: int = 512,
) -> RankingReport:
    """Ranks all items for every user and measures Recall@k and NDCG@k.

    Equal scores rank by item id. A held-out item that is also a training item is masked like one, so it
    counts as missed. A k above the number of items takes them all.

    Args:
        score: Gives the scores [n, n_items] of some users (int64 [n]), any real dtype.
        data: The interactions.
        ks: The cut-offs.
        block: Users ranked at a time; memory is about block * n_items * 8 bytes.

    Raises:
        DataError: Scores of another shape or NaN, a k below 1, or no user with a held-out item.
    """
    if not ks or min(ks) < 1:
        raise DataError(f"cut-offs must be at least 1, got {list(ks)}", where="evaluate_ranking")
    held_out = data.test_indptr.diff()
    users = torch.nonzero(held_out).flatten()
    if len(users) == 0:
        raise DataError("no user has a held-out item", where=data.name, hint="give data with a test split")
    depth = min(max(ks), data.n_items)
    discount = 1 / torch.arange(2, depth + 2, dtype=torch.float64).log2()
    ideal = discount.cumsum(0)
    recall = dict.fromkeys(ks, 0.0)
    ndcg = dict.fromkeys(ks, 0.0)
    for some in torch.split(users, block):
        hits = _hits(_masked_scores(score, some, data), some, data, depth)
        relevant = held_out[some]
        for k in recall:
            cut = min(k, depth)
            best = ideal[relevant.clamp(max=cut) - 1]
            recall[k] += float((hits[:, :cut].sum(1) / relevant).sum())
            ndcg[k] += float((hits[:, :cut] @ discount[:cut] / best).sum())
    n = len(users)
    return RankingReport(
        {k: total / n for k, total in recall.items()},
        {k: total / n for k, total in ndcg.items()},
        users=n,
        skipped=data.n_users - n,
    )


def _masked_scores(score: Callable[[Tensor], Tensor], users: Tensor, data: Interactions) -> Tensor:
    """Scores [n, n_items] with training items at minus infinity."""
    with torch.no_grad():
        scores = score(users).cpu()
    if scores.shape != (len(users), data.n_items):
        raise DataError(
            f"expected scores [{len(users)}, {data.n_items}], got {list(scores.shape)}",
            where="evaluate_ranking",
            hint="one row per user asked for, one column per item",
        )
    nan = torch.isnan(scores).any(1).nonzero()
    if len(nan):
        raise DataError(f"the scores of user {int(users[nan[0]])} hold NaN", where="evaluate_ranking")
    exact = torch.float32 if scores.dtype in (torch.float32, torch.float16, torch.bfloat16) else torch.float64
    scores = scores.to(exact, copy=True)
    row, column = _cells(data.train_indptr, data.train_indices, users)
    scores[row, column] = -torch.inf
    return scores


def _hits(scores: Tensor, users: Tensor, data: Interactions, depth: int) -> Tensor:
    """float64 [n, depth]: 1 where the i-th ranked item is held out for the user."""
    ranked = _top(scores, depth)
    relevant = torch.zeros(scores.shape, dtype=torch.bool)
    relevant[_cells(data.test_indptr, data.test_indices, users)] = True
    relevant[_cells(data.train_indptr, data.train_indices, users)] = False
    return relevant.gather(1, ranked).double()


def _top(scores: Tensor, depth: int) -> Tensor:
    """The ids [n, depth] of the best items, equal scores by rising id."""
    values, ids = scores.topk(min(depth + 1, scores.shape[1]), dim=1)
    ids = ids[:, :depth]
    # topk orders equal scores as it likes; the few rows that have some are sorted whole. Masked items never
    # count, so their order does not matter.
    tied = ((values[:, 1:] == values[:, :-1]) & (values[:, 1:] > -torch.inf)).any(1)
    if tied.any():
        ids[tied] = scores[tied].sort(dim=1, descending=True, stable=True).indices[:, :depth]
    return ids


def _cells(indptr: Tensor, indices: Tensor, users: Tensor) -> tuple[Tensor, Tensor]:
    """Row (position in `users`) and column of every entry of these users' rows."""
    counts = indptr[users + 1] - indptr[users]
    row = torch.repeat_interleave(counts)
    offset = torch.arange(len(row)) - (counts.cumsum(0) - counts)[row]
    return row, indices[indptr[users][row] + offset]
