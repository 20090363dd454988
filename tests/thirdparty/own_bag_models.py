"""Models written for this suite: the forms in which DLRM and its relatives take bags of ids."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from corpus import BuiltModel, Inputs, ModelCase, own_case
from torch import Tensor, nn

ROWS, DIM, DENSE, TABLES = (30, 50, 20), 8, 5, 3


def _bag_ids(batch: int, rng: torch.Generator, table: int, longest: int = 4) -> tuple[Tensor, Tensor]:
    """Ids of one table and the lengths `[batch]` of its bags, 0 to `longest` ids each."""
    lengths = torch.randint(0, longest + 1, (batch,), generator=rng)
    return torch.randint(0, ROWS[table], (int(lengths.sum()),), generator=rng), lengths


def _starts(lengths: Tensor, *, last: bool = False) -> Tensor:
    ends = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    return ends if last else ends[:-1]


def interact(dense: Tensor, pooled: list[Tensor]) -> Tensor:
    """The dense vector, followed by the dot products of all pairs of vectors, below the diagonal."""
    stacked = torch.stack([dense, *pooled], dim=1)
    products = torch.bmm(stacked, stacked.transpose(1, 2))
    rows, columns = torch.tril_indices(stacked.shape[1], stacked.shape[1], offset=-1)
    return torch.cat([dense, products[:, rows, columns]], dim=1)


class Dlrm(nn.Module):
    """Bottom MLP, one bag per table, dot interaction, top MLP.

    Args:
        bags: One module per table, from ids and offsets to `[batch, DIM]`.
    """

    def __init__(self, bags: list[nn.Module]) -> None:
        super().__init__()
        self.bags = nn.ModuleList(bags)
        self.bottom = nn.Sequential(nn.Linear(DENSE, 16), nn.ReLU(), nn.Linear(16, DIM), nn.ReLU())
        pairs = len(bags) * (len(bags) + 1) // 2
        self.top = nn.Sequential(nn.Linear(DIM + pairs, 16), nn.ReLU(), nn.Linear(16, 1), nn.Sigmoid())

    def forward(self, dense: Tensor, offsets: Any, ids: Any) -> Tensor:
        """Click probabilities `[batch, 1]`; offsets and ids are lists, or tensors with one row per table."""
        pooled = [bag(ids[k], offsets[k]) for k, bag in enumerate(self.bags)]
        scores: Tensor = self.top(interact(self.bottom(dense), pooled))
        return scores


class QuotientRemainder(nn.Module):
    """Two small tables instead of a large one: the product of the bags of quotients and of remainders."""

    def __init__(self, rows: int, divisor: int = 4, operation: str = "mult") -> None:
        super().__init__()
        self.divisor, self.operation = divisor, operation
        self.quotients = nn.EmbeddingBag((rows + divisor - 1) // divisor, DIM, mode="sum")
        self.remainders = nn.EmbeddingBag(divisor, DIM, mode="sum")

    def forward(self, ids: Tensor, offsets: Tensor) -> Tensor:
        """Pooled vectors `[bags, DIM]`."""
        quotients = self.quotients((ids / self.divisor).long(), offsets)
        remainders = self.remainders(torch.remainder(ids, self.divisor).long(), offsets)
        return quotients * remainders if self.operation == "mult" else quotients + remainders


class MixedDimension(nn.Module):
    """A narrow table whose pooled rows a matrix widens to the common dimension."""

    def __init__(self, rows: int, narrow: int) -> None:
        super().__init__()
        self.embs = nn.EmbeddingBag(rows, narrow, mode="sum")
        self.proj = nn.Linear(narrow, DIM, bias=False) if narrow < DIM else nn.Identity()

    def forward(self, ids: Tensor, offsets: Tensor | None = None) -> Tensor:
        """Pooled vectors `[bags, DIM]`."""
        wide: Tensor = self.proj(self.embs(ids, offsets=offsets))
        return wide


class WeightedBags(Dlrm):
    """Learned weights for each row, looked up with the ids and given as weights of the sample."""

    def __init__(self) -> None:
        super().__init__([nn.EmbeddingBag(rows, DIM, mode="sum") for rows in ROWS])
        self.row_weights = nn.ParameterList(nn.Parameter(torch.rand(rows)) for rows in ROWS)

    def forward(self, dense: Tensor, offsets: Any, ids: Any) -> Tensor:
        """As `Dlrm`."""
        pooled = [
            bag(ids[k], offsets[k], per_sample_weights=weights.gather(0, ids[k]))
            for k, (bag, weights) in enumerate(zip(self.bags, self.row_weights, strict=True))
        ]
        scores: Tensor = self.top(interact(self.bottom(dense), pooled))
        return scores


class FixedBags(nn.Module):
    """Bags of a fixed number of ids: one matrix `[batch, ids]` per table, without offsets."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        padding = 0 if mode != "max" else None
        self.bags = nn.ModuleList(nn.EmbeddingBag(rows, DIM, mode=mode, padding_idx=padding) for rows in ROWS)
        self.top = nn.Linear(TABLES * DIM + DENSE, 1)

    def forward(self, dense: Tensor, ids: list[Tensor]) -> Tensor:
        """Scores `[batch, 1]`."""
        pooled = [bag(held) for bag, held in zip(self.bags, ids, strict=True)]
        scores: Tensor = self.top(torch.cat([dense, *pooled], 1))
        return scores


class ValuesAndLengths(nn.Module):
    """A dictionary with the values and lengths of each feature."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.bags = nn.ModuleDict(
            {f"f{k}": nn.EmbeddingBag(rows, DIM, mode=mode, include_last_offset=True) for k, rows in enumerate(ROWS)}
        )
        self.top = nn.Linear(TABLES * DIM + DENSE, 1)

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Scores `[batch, 1]`."""
        pooled = []
        for name, bag in self.bags.items():
            offsets = torch.cumsum(features[f"{name}_lengths"], 0)
            pooled.append(bag(features[f"{name}_values"], torch.nn.functional.pad(offsets, (1, 0))))
        scores: Tensor = self.top(torch.cat([features["dense"], *pooled], 1))
        return scores


def _plain(mode: str = "sum", **options: Any) -> Dlrm:
    return Dlrm([nn.EmbeddingBag(rows, DIM, mode=mode, **options) for rows in ROWS])


def _quotients(operation: str) -> Dlrm:
    return Dlrm([QuotientRemainder(rows, operation=operation) for rows in ROWS])


def _mixed() -> Dlrm:
    return Dlrm([MixedDimension(rows, narrow) for rows, narrow in zip(ROWS, (4, DIM, 2), strict=True)])


def _lists(last: bool, batch: int, rng: torch.Generator) -> Inputs:
    bags = [_bag_ids(batch, rng, k) for k in range(TABLES)]
    offsets = [_starts(lengths, last=last) for _, lengths in bags]
    return (torch.randn(batch, DENSE, generator=rng), offsets, [held for held, _ in bags]), {}


def _matrix_of_offsets(batch: int, rng: torch.Generator) -> Inputs:
    (dense, offsets, held), _ = _lists(False, batch, rng)
    return (dense, torch.stack(offsets), held), {}


def _one_id_a_bag(batch: int, rng: torch.Generator) -> Inputs:
    offsets = torch.arange(batch).expand(TABLES, -1).contiguous()
    held = torch.stack([torch.randint(0, rows, (batch,), generator=rng) for rows in ROWS])
    return (torch.randn(batch, DENSE, generator=rng), offsets, held), {}


def _rows_of_ids(batch: int, rng: torch.Generator) -> Inputs:
    held = [torch.randint(0, rows, (batch, 4), generator=rng) for rows in ROWS]
    return (torch.randn(batch, DENSE, generator=rng), held), {}


def _dictionary(batch: int, rng: torch.Generator) -> Inputs:
    given = {"dense": torch.randn(batch, DENSE, generator=rng)}
    for k in range(TABLES):
        given[f"f{k}_values"], given[f"f{k}_lengths"] = _bag_ids(batch, rng, k)
    return (given,), {}


def _case(name: str, make: Callable[[], nn.Module], inputs: Callable[[int, torch.Generator], Inputs]) -> ModelCase:
    return own_case(name, lambda: BuiltModel(make(), inputs))


CASES = [
    _case("DLRM-lists", _plain, partial(_lists, False)),
    _case("DLRM-lists-mean", partial(_plain, "mean"), partial(_lists, False)),
    _case("DLRM-lists-last-offset", partial(_plain, include_last_offset=True), partial(_lists, True)),
    _case("DLRM-matrix-of-offsets", _plain, _matrix_of_offsets),
    _case("DLRM-one-id-a-bag", _plain, _one_id_a_bag),
    _case("DLRM-quotient-remainder", partial(_quotients, "mult"), partial(_lists, False)),
    _case("DLRM-quotient-remainder-add", partial(_quotients, "add"), partial(_lists, False)),
    _case("DLRM-mixed-dimension", _mixed, partial(_lists, False)),
    _case("DLRM-weighted", WeightedBags, partial(_lists, False)),
    _case("fixed-bags-sum", partial(FixedBags, "sum"), _rows_of_ids),
    _case("fixed-bags-mean", partial(FixedBags, "mean"), _rows_of_ids),
    _case("fixed-bags-max", partial(FixedBags, "max"), _rows_of_ids),
    _case("values-lengths-sum", partial(ValuesAndLengths, "sum"), _dictionary),
    _case("values-lengths-mean", partial(ValuesAndLengths, "mean"), _dictionary),
]
