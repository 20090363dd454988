"""Measurements of a model: ranking figures, bytes, and the time of a query."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from recfx.data import Interactions, evaluate_embeddings
from recfx.learn import QuantizedTable
from recfx.retrieval import Index

#: Cut-offs of the ranking figures.
CUTS = (20, 50)

_QUERY_BITS = 8
_REPEATS = 15
_BATCH = 64


@dataclass(frozen=True)
class Figures:
    """One row of the table.

    Attributes:
        recall: Recall@k by k.
        ndcg: NDCG@k by k.
        user_bytes: Bytes of all users, constants included.
        item_bytes: Bytes of all items, constants included.
        query_ms: Milliseconds until the first 50 items of one user are known.
        batch_ms: The same for 64 users together.
    """

    recall: dict[int, float]
    ndcg: dict[int, float]
    user_bytes: int
    item_bytes: int
    query_ms: float
    batch_ms: float


def measure_full(users: Tensor, items: Tensor, data: Interactions) -> Figures:
    """Measures embeddings in full precision, searched by a product and a selection in torch."""
    columns = items.T.contiguous()
    sizes = users.numel() * users.element_size(), items.numel() * items.element_size()
    return _figures(
        users, items, data, sizes, lambda some: torch.topk(users[some] @ columns, min(max(CUTS), len(items)), 1)
    )


def measure_codes(users: QuantizedTable, items: QuantizedTable, data: Interactions) -> Figures:
    """Measures codes. The ranking uses their values, and the search uses codes of items and users in 8 bits. The centre
    of items adds the same number to all scores of a user, so the search omits it.
    """
    index = Index.from_codes(items.codes, items.bits, items.lower, items.step, query_bits=_QUERY_BITS)
    queries = users.dequantize()
    depth = min(max(CUTS), len(items.codes))
    sizes = users.packed_bytes(), items.packed_bytes()
    return _figures(queries, items.dequantize(), data, sizes, lambda some: index.search(queries[some], depth))


def _figures(
    users: Tensor, items: Tensor, data: Interactions, sizes: tuple[int, int], search: Callable[[Tensor], object]
) -> Figures:
    found = evaluate_embeddings(users, items, data, CUTS)
    one, many = (_milliseconds(search, count, len(users)) for count in (1, _BATCH))
    return Figures(found.recall, found.ndcg, *sizes, one, many)


def _milliseconds(search: Callable[[Tensor], object], count: int, users: int) -> float:
    """The median time of searches, ms; each search has `count` other users, and the first search is not counted."""
    spent = []
    for repeat in range(_REPEATS + 1):
        some = (torch.arange(count) + repeat * count) % users
        begun = time.perf_counter()
        search(some)
        spent.append(time.perf_counter() - begun)
    return 1e3 * statistics.median(spent[1:])
