"""Models over bags of ids as plain tensors, in the forms that are common in the field, with generators of their
inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

ROWS, DIM = 40, 8


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw_ids(count: int, rng: torch.Generator) -> torch.Tensor:
    return torch.randint(0, ROWS, (count,), generator=rng)


def starts(lengths: torch.Tensor, *, last: bool = False) -> torch.Tensor:
    """Starts of bags of the given lengths, and, if `last`, the number of ids at the end."""
    ends = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    return ends if last else ends[:-1]


class Offsets(nn.Module):
    """Dense features and one bag."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(ROWS, DIM, **options)
        self.head = nn.Linear(DIM + 3, 2)

    def forward(self, dense, ids, offsets, weights=None):
        return self.head(torch.cat([dense, self.bag(ids, offsets, weights)], 1))


class BagAlone(nn.Module):
    """Only ids and offsets."""

    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(ROWS, DIM, mode="sum")
        self.head = nn.Linear(DIM, 1)

    def forward(self, ids, offsets):
        return self.head(self.bag(ids, offsets))


class Tables(nn.Module):
    """Several tables whose ids and offsets are lists, or matrices with one row per table."""

    def __init__(self, tables: int = 3, mode: str = "sum") -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.EmbeddingBag(ROWS, DIM, mode=mode) for _ in range(tables))
        self.bottom = nn.Linear(5, DIM)
        self.top = nn.Linear(DIM * (tables + 1), 1)

    def forward(self, dense, offsets, ids):
        pooled = [table(ids[k], offsets[k]) for k, table in enumerate(self.tables)]
        return torch.sigmoid(self.top(torch.cat([torch.relu(self.bottom(dense)), *pooled], 1)))


class Dictionary(nn.Module):
    """Values and lengths of each feature in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleDict({name: nn.EmbeddingBag(ROWS, DIM, include_last_offset=True) for name in ("a", "b")})
        self.head = nn.Linear(2 * DIM, 1)

    def forward(self, features):
        pooled = []
        for name, table in self.tables.items():
            lengths = features[f"{name}.lengths"]
            offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
            pooled.append(table(features[f"{name}.values"], offsets))
        return self.head(torch.cat(pooled, 1))


class Keyed(nn.Module):
    """One tensor of values and one of lengths for all keys, key after key."""

    def __init__(self, keys: int = 3, matrix: bool = False) -> None:
        super().__init__()
        self.keys, self.matrix = keys, matrix
        self.table = nn.EmbeddingBag(ROWS, DIM, mode="sum", include_last_offset=True)
        self.head = nn.Linear(keys * DIM + 3, 1)

    def forward(self, dense, values, lengths):
        flat = lengths.reshape(-1)
        pooled = self.table(values, torch.cat([flat.new_zeros(1), flat.cumsum(0)]))
        rows = pooled.view(self.keys, -1, DIM).transpose(0, 1).flatten(1)
        return self.head(torch.cat([dense, rows], 1))


class ByRow(nn.Module):
    """Lengths with a row for each row of the batch; the ids of a row are adjacent, ordered by feature."""

    def __init__(self, keys: int = 3) -> None:
        super().__init__()
        self.table = nn.EmbeddingBag(ROWS, DIM, mode="sum", include_last_offset=True)
        self.head = nn.Linear(keys * DIM, 1)

    def forward(self, values, lengths):
        ends = nn.functional.pad(lengths.reshape(-1).cumsum(0), (1, 0))
        return self.head(self.table(values, ends).view(lengths.shape[0], -1))


class Repeated(nn.Module):
    """Sums of bags by the row number of each id, which repeat_interleave makes from the lengths."""

    def __init__(self, splits: bool = False) -> None:
        super().__init__()
        self.splits = splits
        self.table = nn.Embedding(ROWS, DIM)
        self.head = nn.Linear(DIM + 3, 1)

    def forward(self, dense, values, lengths):
        if self.splits:
            lengths = lengths[1:] - lengths[:-1]
        rows = torch.repeat_interleave(torch.arange(dense.shape[0]), lengths, output_size=values.shape[0])
        pooled = torch.zeros(dense.shape[0], DIM).index_add(0, rows, self.table(values))
        return self.head(torch.cat([dense, pooled], 1))


class Segments(nn.Module):
    """Bags reduced by segment_reduce."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(ROWS, DIM)
        self.head = nn.Linear(DIM, 1)

    def forward(self, values, lengths):
        return self.head(torch.segment_reduce(self.table(values), "sum", lengths=lengths, unsafe=True))


def _dense(batch: int, width: int, rng: torch.Generator) -> torch.Tensor:
    return torch.randn(batch, width, generator=rng)


def _offsets(last: bool, weighted: bool = False) -> Callable[..., tuple[Any, ...]]:
    def draw(lengths: torch.Tensor, rng: torch.Generator) -> tuple[Any, ...]:
        count = int(lengths[0].sum())
        given = (_dense(lengths.shape[1], 3, rng), draw_ids(count, rng), starts(lengths[0], last=last))
        return (*given, torch.rand(count, generator=rng)) if weighted else given

    return draw


def _lists(lengths: torch.Tensor, rng: torch.Generator) -> tuple[Any, ...]:
    ids = [draw_ids(int(own.sum()), rng) for own in lengths]
    return _dense(lengths.shape[1], 5, rng), [starts(own) for own in lengths], ids


def _matrix_of_offsets(lengths: torch.Tensor, rng: torch.Generator) -> tuple[Any, ...]:
    dense, offsets, ids = _lists(lengths, rng)
    return dense, torch.stack(offsets), ids


def _matrices(lengths: torch.Tensor, rng: torch.Generator) -> tuple[Any, ...]:
    own = lengths[:1].expand(3, -1)
    dense, offsets, ids = _lists(own, rng)
    return dense, torch.stack(offsets), torch.stack(ids)


def _keyed(matrix: bool) -> Callable[..., tuple[Any, ...]]:
    def draw(lengths: torch.Tensor, rng: torch.Generator) -> tuple[Any, ...]:
        given = lengths if matrix else lengths.reshape(-1)
        return _dense(lengths.shape[1], 3, rng), draw_ids(int(lengths.sum()), rng), given

    return draw


def _by_row(lengths: torch.Tensor, rng: torch.Generator) -> tuple[Any, ...]:
    return draw_ids(int(lengths.sum()), rng), lengths.T.contiguous()


def _dictionary(lengths: torch.Tensor, rng: torch.Generator) -> tuple[Any, ...]:
    named = {"a": lengths[0], "b": lengths[1].int()}
    values = {f"{name}.values": draw_ids(int(own.sum()), rng) for name, own in named.items()}
    return ({**values, **{f"{name}.lengths": own for name, own in named.items()}},)


def _repeated(splits: bool) -> Callable[..., tuple[Any, ...]]:
    def draw(lengths: torch.Tensor, rng: torch.Generator) -> tuple[Any, ...]:
        given = starts(lengths[0], last=True) if splits else lengths[0]
        return _dense(lengths.shape[1], 3, rng), draw_ids(int(lengths[0].sum()), rng), given

    return draw


#: Form -> (the model, its inputs for lengths [3, B]).
FORMS: dict[str, tuple[Callable[[], nn.Module], Callable[..., tuple[Any, ...]]]] = {
    "offsets": (Offsets, _offsets(False)),
    "offsets, sums": (lambda: Offsets(mode="sum"), _offsets(False)),
    "offsets, padding": (lambda: Offsets(mode="sum", padding_idx=0), _offsets(False)),
    "include_last_offset": (lambda: Offsets(include_last_offset=True), _offsets(True)),
    "weights": (lambda: Offsets(mode="sum"), _offsets(False, weighted=True)),
    "weights, include_last_offset": (
        lambda: Offsets(mode="sum", include_last_offset=True),
        _offsets(True, weighted=True),
    ),
    "ids and offsets alone": (BagAlone, lambda lengths, rng: _offsets(False)(lengths, rng)[1:]),
    "lists": (Tables, _lists),
    "lists, means": (lambda: Tables(mode="mean"), _lists),
    "a matrix of offsets": (Tables, _matrix_of_offsets),
    "matrices of offsets and ids": (Tables, _matrices),
    "dictionary of values and lengths": (Dictionary, _dictionary),
    "keys one after another": (Keyed, _keyed(False)),
    "a matrix of lengths": (lambda: Keyed(matrix=True), _keyed(True)),
    "lengths with a row for each row": (ByRow, _by_row),
    "repeat_interleave": (Repeated, _repeated(False)),
    "row splits": (lambda: Repeated(splits=True), _repeated(True)),
    "segment_reduce": (Segments, lambda lengths, rng: _repeated(False)(lengths, rng)[1:]),
}


def lengths_of(batch: int, longest: int, rng: torch.Generator) -> torch.Tensor:
    """Lengths [3, batch] of bags, up to `longest` ids each."""
    return torch.randint(0, longest + 1, (3, batch), generator=rng)
