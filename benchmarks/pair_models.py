"""Models that write all pairs of their fields out, one after another: the hardest kind for the time that optimize takes."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn

ROWS, DIM, BATCH = 100, 8, 16
_HIDDEN = (64, 32)


class FieldAware(nn.Module):
    """A field-aware factorisation machine: one encoder a field, called once for each pair that the field is in.

    Args:
        fields: The number of fields.
    """

    def __init__(self, fields: int) -> None:
        super().__init__()
        self.fields = fields
        self.encoders = nn.ModuleList(nn.Embedding(ROWS, DIM, padding_idx=0) for _ in range(fields))
        self.dropout = nn.Dropout(0.1)
        self.top = _top(fields * (fields - 1) // 2 * DIM)

    def _encoded(self, values: Tensor, field: int) -> Tensor:
        column = values[:, [field]]
        rows = [self.encoders[field](column[:, 0].long()).unsqueeze(1)]
        encoded: Tensor = self.dropout(torch.cat(rows, 1)).squeeze(1)
        return encoded

    def forward(self, values: Tensor) -> Tensor:
        """Ids as float32 [B, fields] -> [B, 1]."""
        pairs = itertools.combinations(range(self.fields), 2)
        products = [self._encoded(values, i) * self._encoded(values, j) for i, j in pairs]
        logits: Tensor = self.top(torch.cat(products, 1).view(values.size(0), -1))
        return logits.sum(1, keepdim=True)


class Bilinear(nn.Module):
    """FiBiNET: bilinear interactions of the rows, and of the rows weighted by squeeze and excitation, with a matrix for each pair.

    Args:
        fields: The number of fields.
    """

    def __init__(self, fields: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(ROWS, DIM) for _ in range(fields))
        self.gates = nn.Sequential(
            nn.Linear(fields, 4, bias=False), nn.ReLU(), nn.Linear(4, fields, bias=False), nn.ReLU()
        )
        count = fields * (fields - 1) // 2
        self.matrices = nn.ModuleList(nn.Linear(DIM, DIM, bias=False) for _ in range(count))
        self.top = _top(2 * count * DIM)

    def _products(self, rows: Tensor) -> Tensor:
        parts = torch.split(rows, 1, dim=1)
        pairs = zip(self.matrices, itertools.combinations(parts, 2), strict=True)
        return torch.cat([matrix(left) * right for matrix, (left, right) in pairs], 1)

    def forward(self, values: Tensor) -> Tensor:
        """Ids as float32 [B, fields] -> [B, 1]."""
        rows = torch.cat([table(values[:, i : i + 1].long()) for i, table in enumerate(self.tables)], 1)
        gated = rows * self.gates(rows.mean(2)).unsqueeze(2)
        found = torch.cat([self._products(gated), self._products(rows)], 1)
        logits: Tensor = self.top(found.flatten(1))
        return logits


class OperationAware(nn.Module):
    """An operation-aware network: two tables for each pair of fields.

    Args:
        fields: The number of fields.
    """

    def __init__(self, fields: int) -> None:
        super().__init__()
        self.fields = fields
        self.tables = nn.ModuleDict(
            {f"{i}_{j}": nn.Embedding(ROWS, DIM) for i, j in itertools.permutations(range(fields), 2)}
        )
        self.top = _top(fields * (fields - 1) // 2 * DIM)

    def forward(self, values: Tensor) -> Tensor:
        """Ids as float32 [B, fields] -> [B, 1]."""
        products = []
        for i, j in itertools.combinations(range(self.fields), 2):
            first = self.tables[f"{i}_{j}"](values[:, i : i + 1].long())
            second = self.tables[f"{j}_{i}"](values[:, j : j + 1].long())
            products.append(first * second)
        logits: Tensor = self.top(torch.flatten(torch.cat(products, dim=-1), start_dim=1))
        return logits


class JoinedPairs(nn.Module):
    """A network that joins the rows of each pair and maps them with a matrix of the pair's own.

    Args:
        fields: The number of fields.
    """

    def __init__(self, fields: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(ROWS, DIM) for _ in range(fields))
        self.matrices = nn.ModuleList(nn.Linear(2 * DIM, 4) for _ in range(fields * (fields - 1) // 2))

    def forward(self, values: Tensor) -> Tensor:
        """Ids as float32 [B, fields] -> [B, 4]."""
        ids = values.long()
        pairs = zip(self.matrices, itertools.combinations(range(len(self.tables)), 2), strict=True)
        found = [m(torch.cat([self.tables[i](ids[:, i]), self.tables[j](ids[:, j])], 1)) for m, (i, j) in pairs]
        return torch.stack(found).sum(0)


class PairAttention(nn.Module):
    """An attentional factorisation machine as a loop: a score for each product of a pair, and the sum of the products by their scores.

    Args:
        fields: The number of fields.
    """

    def __init__(self, fields: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(ROWS, DIM) for _ in range(fields))
        self.hidden, self.score, self.top = nn.Linear(DIM, 4), nn.Linear(4, 1, bias=False), nn.Linear(DIM, 1)

    def forward(self, values: Tensor) -> Tensor:
        """Ids as float32 [B, fields] -> [B, 1]."""
        ids = values.long()
        rows = [table(ids[:, i]) for i, table in enumerate(self.tables)]
        products = [left * right for left, right in itertools.combinations(rows, 2)]
        scores = torch.cat([self.score(torch.relu(self.hidden(product))) for product in products], 1).softmax(1)
        pooled = sum(scores[:, k : k + 1] * product for k, product in enumerate(products))
        logits: Tensor = self.top(pooled)
        return logits


class PairTower(nn.Module):
    """A network that runs one tower over the joined rows of each pair.

    Args:
        fields: The number of fields.
    """

    def __init__(self, fields: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(ROWS, DIM) for _ in range(fields))
        self.tower = nn.Sequential(nn.Linear(2 * DIM, 8), nn.ReLU(), nn.Linear(8, 2))
        self.top = _top(fields * (fields - 1))

    def forward(self, values: Tensor) -> Tensor:
        """Ids as float32 [B, fields] -> [B, 1]."""
        ids = values.long()
        rows = [table(ids[:, i]) for i, table in enumerate(self.tables)]
        found = [self.tower(torch.cat(pair, -1)) for pair in itertools.combinations(rows, 2)]
        logits: Tensor = self.top(torch.stack(found, 1).flatten(1))
        return logits


#: Name -> model of a number of fields.
PAIR_MODELS: dict[str, Callable[[int], nn.Module]] = {
    "field-aware": FieldAware,
    "bilinear": Bilinear,
    "operation-aware": OperationAware,
    "joined-pairs": JoinedPairs,
    "pair-attention": PairAttention,
    "pair-tower": PairTower,
}


def pair_model(name: str, fields: int) -> tuple[nn.Module, Tensor]:
    """A model in eval mode, and an example of its input.

    Args:
        name: A key of `PAIR_MODELS`.
        fields: The number of fields.
    """
    torch.manual_seed(0)
    return PAIR_MODELS[name](fields).eval(), torch.randint(1, ROWS, (BATCH, fields)).float()


def _top(width: int) -> nn.Module:
    layers: list[nn.Module] = []
    for wide in _HIDDEN:
        layers += [nn.Linear(width, wide), nn.ReLU(inplace=True)]
        width = wide
    return nn.Sequential(*layers, nn.Linear(width, 1))
