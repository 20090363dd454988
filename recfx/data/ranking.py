"""Recall@k and NDCG@k over the full ranking of all items, with training items masked.

With R the held-out items of a user and hit_i = 1 where the i-th ranked item is one of them:

    Recall@k = sum_{i<=k} hit_i / |R|
    NDCG@k   = sum_{i<=k} hit_i / log2(i + 1)  /  sum_{i<=min(k,|R|)} 1 / log2(i + 1)

Both are averaged over the users with held-out items (the protocol of NGCF and LightGCN).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recfx.data._top import chunk_width, top_columns
from recfx.data.interactions import Interactions
from recfx.errors import DataError


@dataclass(frozen=True)
class RankingReport:
    """Ranking metrics, averaged over users.

    Attributes:
        recall: k -> Recall@k.
        ndcg: k -> NDCG@k.
        users: Number of measured users.
        skipped: Number of users without a held-out item, which are not measured.
    """

    recall: dict[int, float]
    ndcg: dict[int, float]
    users: int
    skipped: int


_BLOCK_SCORES = 1 << 23  # 32 MB of float32: large enough for a fast product, close to the size of a cache

#: dtype -> a buffer [n, n_items] for the scores.
Room = Callable[[torch.dtype], Tensor]


def evaluate_ranking(
    score: Callable[[Tensor], Tensor],
    data: Interactions,
    ks: Sequence[int] = (20, 50),
    *,
    block: int | None = None,
) -> RankingReport:
    """Ranks all items for every user and measures Recall@k and NDCG@k.

    Equal scores rank by item id. A held-out item that is also a training item is masked, so it counts as missed. A k
    above the number of items covers all items.

    Args:
        score: A function from users, int64 [n], to their scores [n, n_items], of any real dtype.
        data: The interactions.
        ks: The cut-offs.
        block: Number of users ranked at a time; None chooses about eight million scores at a time.

    Raises:
        DataError: Scores have another shape or NaN, a k or `block` is below 1, or no user has a held-out item.
    """

    def fill(users: Tensor, room: Room) -> Tensor:
        with torch.no_grad():
            scores = score(users)
        if scores.shape != (len(users), data.n_items):
            raise DataError(
                f"expected scores [{len(users)}, {data.n_items}], got {list(scores.shape)}",
                where="evaluate_ranking",
                hint="return one row for each given user and one column for each item",
            )
        single = scores.dtype in (torch.float32, torch.float16, torch.bfloat16)
        return room(torch.float32 if single else torch.float64).copy_(scores)

    return _evaluate(fill, data, ks, block, torch.device("cpu"))


def evaluate_embeddings(
    users: Tensor, items: Tensor, data: Interactions, ks: Sequence[int] = (20, 50), *, block: int | None = None
) -> RankingReport:
    """Ranks all items by dot products with the user and measures Recall@k and NDCG@k, on the device of the embeddings.

    Args:
        users: float32 or float64 [n_users, d].
        items: [n_items, d], of the same dtype and device.
        data: The interactions.
        ks: The cut-offs.
        block: Number of users ranked at a time; None chooses about eight million scores at a time.

    Raises:
        DataError: Embeddings have another shape or dtype, or the arguments are errors for `evaluate_ranking`.
    """
    fits = users.ndim == 2 and len(users) == data.n_users and items.shape == (data.n_items, users.shape[1])
    if not fits or users.dtype != items.dtype or users.dtype not in (torch.float32, torch.float64):
        raise DataError(
            f"expected float embeddings [{data.n_users}, d] and [{data.n_items}, d], got {users.dtype} "
            f"{list(users.shape)} and {items.dtype} {list(items.shape)}",
            where="evaluate_embeddings",
            hint="pass the embeddings of all users and all items, with the same dtype and width",
        )
    users, columns = users.detach(), items.detach().T.contiguous()
    return _evaluate(
        lambda some, room: torch.mm(users[some], columns, out=room(users.dtype)), data, ks, block, users.device
    )


def _evaluate(
    fill: Callable[[Tensor, Room], Tensor],
    data: Interactions,
    ks: Sequence[int],
    block: int | None,
    device: torch.device,
) -> RankingReport:
    """Measures the ranking by the scores that `fill` writes into the buffer it requests."""
    if not ks or min(ks) < 1:
        raise DataError(
            f"cut-offs must be at least 1, got {list(ks)}",
            where="evaluate_ranking",
            hint="pass cut-offs such as (20, 50)",
        )
    if block is not None and block < 1:
        raise DataError(
            f"a block needs at least one user, got {block}", where="evaluate_ranking", hint="pass 1 or more"
        )
    held_out = data.test_indptr.diff().to(device)
    users = torch.nonzero(held_out).flatten()
    if len(users) == 0:
        raise DataError("no user has a held-out item", where=data.name, hint="give data with a test split")
    depth = min(max(ks), data.n_items)
    discount = 1 / torch.arange(2, depth + 2, dtype=torch.float64, device=device).log2()
    ideal = discount.cumsum(0)
    recall, ndcg = dict.fromkeys(ks, 0.0), dict.fromkeys(ks, 0.0)
    ranking = _Ranking(data, depth, device)
    for some in torch.split(users, block or max(_BLOCK_SCORES // data.n_items, 1)):
        hits = ranking.hits(fill, some)
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


class _Ranking:
    """Ranks blocks of users in one buffer, whose width is a whole number of chunks.

    Args:
        data: The interactions.
        depth: Number of items to rank.
        device: Device of the buffer.
    """

    def __init__(self, data: Interactions, depth: int, device: torch.device) -> None:
        self.n_items, self.depth, self.device = data.n_items, depth, device
        self.chunk = chunk_width(data.n_items, depth + 1)
        self.columns = -(-data.n_items // self.chunk) * self.chunk
        self.train = data.train_indptr.to(device), data.train_indices.to(device)
        keys = [
            torch.repeat_interleave(indptr.diff()) * self.columns + indices
            for indptr, indices in ((data.train_indptr, data.train_indices), (data.test_indptr, data.test_indices))
        ]
        # The padding counts as columns, so that the keys of one user differ from the keys of the next.
        self.relevant = keys[1][~torch.isin(keys[1], keys[0])].sort().values.to(device)
        self.buffer = torch.empty(0)

    def hits(self, fill: Callable[[Tensor, Room], Tensor], users: Tensor) -> Tensor:
        """float64 [n, depth]: 1 where the i-th ranked item is held out for the user."""
        scores = fill(users, lambda dtype: self._room(len(users), dtype))
        nan = scores.amax(1).isnan().nonzero()
        if len(nan):
            raise DataError(
                f"the scores of user {int(users[nan[0]])} hold NaN",
                where="evaluate_ranking",
                hint="check the model for overflow or a division by zero",
            )
        scores[_cells(*self.train, users)] = -torch.inf
        ranked = top_columns(self.buffer[: len(users)], self.depth, self.chunk)
        if len(self.relevant) == 0:
            return torch.zeros(ranked.shape, dtype=torch.float64, device=self.device)
        keys = users.unsqueeze(1) * self.columns + ranked
        at = torch.searchsorted(self.relevant, keys).clamp(max=len(self.relevant) - 1)
        return (self.relevant[at] == keys).double()

    def _room(self, rows: int, dtype: torch.dtype) -> Tensor:
        if self.buffer.dtype != dtype or len(self.buffer) < rows:
            self.buffer = torch.full((rows, self.columns), -torch.inf, dtype=dtype, device=self.device)
        return self.buffer[:rows, : self.n_items]


def _cells(indptr: Tensor, indices: Tensor, users: Tensor) -> tuple[Tensor, Tensor]:
    """The row (position in `users`) and the column of every entry in the rows of these users."""
    counts = indptr[users + 1] - indptr[users]
    row = torch.repeat_interleave(counts)
    offset = torch.arange(len(row), device=users.device) - (counts.cumsum(0) - counts)[row]
    return row, indices[indptr[users][row] + offset]
