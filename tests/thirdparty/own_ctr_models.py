"""Models written for this suite: interactions of fields, as papers on click prediction have them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, pairwise

import torch
import torch.nn.functional as F
from corpus import BuiltModel, Inputs, ModelCase, ids, own_case
from torch import Tensor, nn

FIELDS, DIM = (20, 30, 15, 40), 8
COUNT = len(FIELDS)
WIDTH = COUNT * DIM
PAIRS = list(combinations(range(COUNT), 2))


class Fields(nn.Module):
    """One table per field, an interaction of the vectors `[batch, fields, DIM]`, and a linear part.

    Args:
        interact: Maps the vectors to `[batch, width]`.
        width: The width of the interaction.
    """

    def __init__(self, interact: nn.Module, width: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(rows, DIM) for rows in FIELDS)
        self.linear = nn.ModuleList(nn.Embedding(rows, 1) for rows in FIELDS)
        self.interact = interact
        self.head = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Probabilities `[batch]` of ids `[batch, fields]`."""
        vectors = torch.stack([table(x[:, i]) for i, table in enumerate(self.tables)], 1)
        linear = sum(table(x[:, i]) for i, table in enumerate(self.linear))
        return torch.sigmoid(self.head(self.interact(vectors)) + linear).squeeze(1)


def mlp(*widths: int, last: bool = True) -> nn.Sequential:
    """Linear layers with ReLU between them, and optionally after the last."""
    layers: list[nn.Module] = []
    for given, found in pairwise(widths):
        layers += [nn.Linear(given, found), nn.ReLU()]
    return nn.Sequential(*(layers if last else layers[:-1]))


class Compressed(nn.Module):
    """xDeepFM's compressed interaction network: outer products of maps, mixed by a convolution of width 1."""

    def __init__(self, split: bool) -> None:
        super().__init__()
        self.split = split
        self.maps = nn.ModuleList([nn.Conv1d(COUNT * COUNT, 6, 1), nn.Conv1d(COUNT * (3 if split else 6), 6, 1)])

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, 9]` or `[batch, 12]`."""
        hidden, found = x, []
        for number, layer in enumerate(self.maps):
            outer = torch.einsum("bhd,bmd->bhmd", x, hidden).flatten(1, 2)
            mixed = F.relu(layer(outer))
            if self.split and number == 0:
                hidden, mixed = torch.split(mixed, 3, dim=1)
            else:
                hidden = mixed
            found.append(mixed)
        return torch.cat(found, dim=1).sum(dim=2)


class FieldAware(nn.Module):
    """FFM: a table for every ordered pair of fields, in a Python loop over pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(sum(FIELDS), DIM) for _ in FIELDS)
        self.register_buffer("starts", torch.tensor([0, *FIELDS[:-1]]).cumsum(0), persistent=False)
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Probabilities `[batch]`."""
        x = x + self.starts
        vectors = [table(x) for table in self.tables]
        products = torch.stack([vectors[j][:, i] * vectors[i][:, j] for i, j in PAIRS], dim=1)
        return torch.sigmoid(products.sum(dim=(1, 2)) + self.bias)


class Weighted(nn.Module):
    """FwFM ("scalar"), FmFM ("matrix") and FvFM ("vector"): a weight of its own for every pair of fields."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        shape = {"scalar": (1,), "vector": (DIM,), "matrix": (DIM, DIM)}[kind]
        self.kind, self.weights = kind, nn.Parameter(torch.randn(len(PAIRS), *shape) * 0.3)

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, pairs]`."""
        left, right = ([x[:, pair[side]] for pair in PAIRS] for side in (0, 1))
        if self.kind == "matrix":
            left = [vector @ weight for vector, weight in zip(left, self.weights, strict=True)]
        products = torch.stack(left, 1) * torch.stack(right, 1)
        return (products if self.kind == "matrix" else products * self.weights).sum(-1)


class Attentional(nn.Module):
    """AFM: pairwise products, pooled by attention."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.columns = zip(*PAIRS, strict=True)
        self.attend = nn.Sequential(nn.Linear(DIM, 4), nn.ReLU(), nn.Linear(4, 1, bias=False), nn.Softmax(dim=1))

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, DIM]`."""
        products = x[:, list(self.rows)] * x[:, list(self.columns)]
        return (products * self.attend(products)).sum(1)


class Products(nn.Module):
    """PNN: inner products of pairs and the vectors, followed by an MLP; "outer" uses the outer product of the sum with
    itself."""

    def __init__(self, outer: bool) -> None:
        super().__init__()
        self.outer = outer
        self.deep = mlp(WIDTH + (DIM * DIM if outer else len(PAIRS)), 24, 16)

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, 16]`."""
        if self.outer:
            total = x.sum(1)
            products = (total.unsqueeze(2) * total.unsqueeze(1)).flatten(1)
        else:
            products = torch.stack([torch.sum(x[:, i] * x[:, j], dim=1) for i, j in PAIRS], 1)
        return self.deep(torch.cat([x.flatten(1), products], 1))


class BiPooling(nn.Module):
    """NFM: half of the square of the sum minus the sum of squares, batch norm, then an MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.deep = nn.BatchNorm1d(DIM), mlp(DIM, 16, 8)

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, 8]`."""
        return self.deep(self.norm(0.5 * (x.sum(1).pow(2) - x.pow(2).sum(1))))


def _inputs(batch: int, rng: torch.Generator) -> Inputs:
    return (torch.stack([ids(batch, rows, rng) for rows in FIELDS], 1),), {}


def field_case(name: str, make: Callable[[], nn.Module], width: int) -> ModelCase:
    """A case of fields with an interaction of this width."""
    return own_case(name, lambda: BuiltModel(Fields(make(), width), _inputs))


CASES = [
    field_case("xDeepFM", lambda: Compressed(False), 12),
    field_case("xDeepFM-split-half", lambda: Compressed(True), 9),
    own_case("FFM-pair-loop", lambda: BuiltModel(FieldAware(), _inputs)),
    field_case("FwFM", lambda: Weighted("scalar"), len(PAIRS)),
    field_case("FvFM", lambda: Weighted("vector"), len(PAIRS)),
    field_case("FmFM", lambda: Weighted("matrix"), len(PAIRS)),
    field_case("AFM", Attentional, DIM),
    field_case("PNN-inner", lambda: Products(False), 16),
    field_case("PNN-outer", lambda: Products(True), 16),
    field_case("NFM", BiPooling, 8),
]
