"""Models with products of pairs of fields, in which `batch-pairs` fires."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import torch
from pass_cases import Case, Function
from torch import nn

F, D = 4, 3
PAIRS = list(combinations(range(F), 2))
REVERSED = [(i, j) for i in range(F) for j in range(i)]
X = (torch.randn(3, F, D),)
CROSSED = (torch.randn(3, F, F, D),)
FLAT = (torch.randn(3, F * D),)
ONE = {"aten.mul.Tensor": 1}


def case(body: Callable[..., Any], inputs: Any = X, after: dict[str, int] | None = None, **state: Any) -> Case:
    return Case(lambda: Function(body, **state), inputs, 1, ONE if after is None else after)


def tables(count: int) -> nn.ModuleList:
    return nn.ModuleList(nn.Embedding(7, D) for _ in range(count))


def linears(count: int, bias: bool = False, width: int = D) -> nn.ModuleList:
    return nn.ModuleList(nn.Linear(D, width, bias=bias) for _ in range(count))


def matrices(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape))


IDS = (torch.randint(0, 7, (3, F)),)
SUMS = ONE | {"aten.sum.dim_IntList": 1}

PRODUCTS = {
    "cat of columns": case(lambda m, x: torch.cat([x[:, i] * x[:, j] for i, j in PAIRS], 1)),
    "cat, last dimension": case(lambda m, x: torch.cat([x[:, i] * x[:, j] for i, j in PAIRS], -1)),
    "stack": case(lambda m, x: torch.stack([x[:, i] * x[:, j] for i, j in PAIRS], 1)),
    "stack in front": case(lambda m, x: torch.stack([x[:, i] * x[:, j] for i, j in PAIRS])),
    "stack behind": case(lambda m, x: torch.stack([x[:, i] * x[:, j] for i, j in PAIRS], -1)),
    "slices": case(lambda m, x: torch.cat([x[:, i : i + 1] * x[:, j : j + 1] for i, j in PAIRS], 1)),
    "slices, last dimension": case(lambda m, x: torch.cat([x[:, i : i + 1] * x[:, j : j + 1] for i, j in PAIRS], 2)),
    "split": case(lambda m, x: torch.cat([a * b for a, b in combinations(x.split(1, 1), 2)], 1)),
    "chunk": case(lambda m, x: torch.cat([a * b for a, b in combinations(x.chunk(F, 1), 2)], 1)),
    "unbind": case(lambda m, x: torch.stack([a * b for a, b in combinations(x.unbind(1), 2)], 1)),
    "lists of positions": case(lambda m, x: torch.cat([x[:, [i]] * x[:, [j]] for i, j in PAIRS], 1)),
    "index_select": case(
        lambda m, x: torch.cat(
            [x.index_select(1, torch.tensor([i])) * x.index_select(1, torch.tensor([j])) for i, j in PAIRS], 1
        )
    ),
    "wide rows": case(lambda m, x: torch.cat([a * b for a, b in combinations(x.split(D, 1), 2)], 1), FLAT),
    "wide rows, slices": case(
        lambda m, x: torch.cat([x[:, D * i : D * (i + 1)] * x[:, D * j : D * (j + 1)] for i, j in PAIRS], 1), FLAT
    ),
    "columns of numbers": case(lambda m, x: torch.stack([x[:, i] * x[:, j] for i, j in PAIRS], 1), FLAT),
    "columns of numbers, kept": case(
        lambda m, x: torch.cat([x[:, i : i + 1] * x[:, j : j + 1] for i, j in PAIRS], 1), FLAT
    ),
    "lower triangle": case(lambda m, x: torch.cat([x[:, i] * x[:, j] for i, j in REVERSED], 1)),
    "the pairs turned": case(lambda m, x: torch.cat([x[:, j] * x[:, i] for i, j in PAIRS], 1)),
    "in another order": case(lambda m, x: torch.cat([x[:, i] * x[:, j] for i, j in reversed(PAIRS)], 1)),
    "without some pairs": case(lambda m, x: torch.cat([x[:, i] * x[:, j] for i, j in [*PAIRS[1:], PAIRS[2]]], 1)),
    "with squares": case(
        lambda m, x: torch.cat([x[:, i] * x[:, j] for i, j in [(0, 0), (0, 1), (1, 1), (1, 2), (2, 2), (3, 2)]], 1)
    ),
    "field-aware": case(lambda m, x: torch.stack([x[:, i, j] * x[:, j, i] for i, j in PAIRS], 1), CROSSED),
    "field-aware, summed": case(
        lambda m, x: torch.stack([x[:, i, j] * x[:, j, i] for i, j in PAIRS], 1).sum(-1, keepdim=True), CROSSED
    ),
    "field-aware, a list of tensors": case(
        lambda m, x: (
            lambda v: torch.stack([v[j][:, i] * v[i][:, j] for i, j in PAIRS], 1)
        )([t(x) for t in m.tables]),
        IDS,
        tables=tables(F),
    ),
    "field-aware, a table for each pair": case(
        lambda m, x: torch.cat(
            [m.tables[F * i + j](x[:, i]) * m.tables[F * j + i](x[:, j]) for i, j in PAIRS], 1
        ),
        IDS,
        tables=tables(F * F),
    ),
    "one encoder a field": case(
        lambda m, x: torch.cat([m.tables[i](x[:, [i]])[:, 0] * m.tables[j](x[:, [j]])[:, 0] for i, j in PAIRS], 1),
        IDS,
        tables=tables(F),
    ),
    "tensors of their own": case(
        lambda m, x: (lambda v: torch.cat([v[i] * v[j] for i, j in PAIRS], 1))([x[:, i].exp() for i in range(F)])
    ),
    "beside other parts": case(
        lambda m, x: torch.cat([x[:, 0], *[x[:, i] * x[:, j] for i, j in PAIRS], x.flatten(1)], 1)
    ),
    "flattened one by one": case(
        lambda m, x: torch.cat([(x[:, i : i + 1] * x[:, j : j + 1]).flatten(1) for i, j in PAIRS], 1)
    ),
    "unsqueezed one by one": case(
        lambda m, x: torch.cat([(x[:, i] * x[:, j]).unsqueeze(1) for i, j in PAIRS], 1)
    ),
    "dropout between": case(
        lambda m, x: torch.cat([nn.functional.dropout(x[:, i], 0.5, False) * x[:, j] for i, j in PAIRS], 1)
    ),
    "float64": case(lambda m, x: torch.cat([x[:, i] * x[:, j] for i, j in PAIRS], 1), (X[0].double(),)),
}  # fmt: skip

SUMMED = {
    "dot products": case(lambda m, x: torch.stack([(x[:, i] * x[:, j]).sum(1) for i, j in PAIRS], 1), after=SUMS),
    "dot products, kept": case(
        lambda m, x: torch.cat([(x[:, i] * x[:, j]).sum(1, keepdim=True) for i, j in PAIRS], 1), after=SUMS
    ),
    "dot products, kept twice": case(
        lambda m, x: torch.cat([(x[:, [i]] * x[:, [j]]).sum(-1, keepdim=True) for i, j in PAIRS], 1), after=SUMS
    ),
    "field-aware dot products": case(
        lambda m, x: torch.stack([torch.sum(x[:, i, j] * x[:, j, i], -1) for i, j in PAIRS], -1), CROSSED, SUMS
    ),
    "einsum": case(
        lambda m, x: torch.stack([torch.einsum("bd,bd->b", x[:, i], x[:, j]) for i, j in PAIRS], 1), after=SUMS
    ),
    "bmm": case(
        lambda m, x: torch.cat([torch.bmm(x[:, [i]], x[:, j].unsqueeze(2)).squeeze(2) for i, j in PAIRS], 1), after=SUMS
    ),
    "a chain of additions": case(lambda m, x: sum(x[:, i, j] * x[:, j, i] for i, j in PAIRS), CROSSED, SUMS),
    "a chain of dot products": case(lambda m, x: sum((x[:, i] * x[:, j]).sum(1) for i, j in [*PAIRS[1:], (2, 2)]), after=SUMS),
    "a chain with a first-order term": case(
        lambda m, x: sum((x[:, i, j] * x[:, j, i]).sum(1) for i, j in PAIRS) + x[:, 0, 0, 0],
        CROSSED,
        SUMS | {"aten.add.Tensor": 1},
    ),
    "stacked and summed": case(
        lambda m, x: torch.stack([x[:, i] * x[:, j] for i, j in PAIRS]).sum(0), after=SUMS
    ),
    "field-weighted": case(
        lambda m, x: sum((x[:, i] * x[:, j]).sum(1) * m.w[i, j] for i, j in PAIRS), after={"aten.mul.Tensor": 2}, w=matrices(F, F)
    ),
    "field-weighted, kept": case(
        lambda m, x: sum((x[:, i] * x[:, j]).sum(1, keepdim=True) * m.w[i, j] for i, j in PAIRS),
        after={"aten.mul.Tensor": 2},
        w=matrices(F, F, 1),
    ),
    "field-weighted, weights in front": case(
        lambda m, x: torch.stack([(m.w[i, j] * x[:, i] * x[:, j]).sum(1) for i, j in PAIRS], 1),
        after={"aten.mul.Tensor": 2},
        w=matrices(F, F),
    ),
    "field-weighted, weights inside": case(
        lambda m, x: torch.stack([(x[:, i] * (x[:, j] * m.w[i, j])).sum(1) for i, j in PAIRS], 1),
        after={"aten.mul.Tensor": 2},
        w=matrices(F, F),
    ),
    "field-weighted, expanded": case(
        lambda m, x: (
            lambda w: torch.stack([x[:, i] * x[:, j] * w[:, i, j] for i, j in PAIRS], 1).sum(1)
        )(m.w.expand(x.shape[0], -1, -1, -1)),
        after={"aten.mul.Tensor": 2},
        w=matrices(F, F, 1),
    ),
    "weights with a vector each": case(
        lambda m, x: torch.cat([x[:, i] * m.w[k] * x[:, j] for k, (i, j) in enumerate(PAIRS)], 1),
        after={"aten.mul.Tensor": 2},
        w=matrices(len(PAIRS), D),
    ),
    "some products weighted": case(
        lambda m, x: torch.cat([x[:, i] * x[:, j] * (k + 1.0) for k, (i, j) in enumerate(PAIRS)], 1),
        after={"aten.mul.Tensor": 2},
    ),
}  # fmt: skip


def bilinear(m: Any, x: torch.Tensor, pairs: Sequence[tuple[int, int]] = PAIRS, turned: bool = False) -> torch.Tensor:
    parts = x.split(1, 1)
    products = [(m.maps[k](parts[i]), parts[j]) for k, (i, j) in enumerate(pairs)]
    return torch.cat([b * a if turned else a * b for a, b in products], 1)


WIDE = {"aten.linear": F - 1, "aten.mul.Tensor": F - 1}
BILINEAR = {
    "all": case(
        lambda m, x: torch.cat([m.map(a) * b for a, b in combinations(x.split(1, 1), 2)], 1),
        after=ONE | {"aten.linear": 1},
        map=nn.Linear(D, D, bias=False),
    ),
    "all, with bias, on the right": case(
        lambda m, x: torch.cat([x[:, i] * m.map(x[:, j]) for i, j in PAIRS], 1),
        after=ONE | {"aten.linear": 1},
        map=nn.Linear(D, D),
    ),
    "all, as a product of matrices": case(
        lambda m, x: torch.cat([(x[:, i] @ m.w) * x[:, j] for i, j in PAIRS], 1),
        after=ONE | {"aten.matmul": 1},
        w=matrices(D, D),
    ),
    "all, mapped before the loop": case(
        lambda m, x: (lambda y: torch.cat([y[:, i] * x[:, j] for i, j in PAIRS], 1))(m.map(x)), map=nn.Linear(D, D)
    ),
    "each": case(
        lambda m, x: torch.cat([m.maps[i](x[:, i]) * x[:, j] for i, j in PAIRS], 1),
        after=ONE | {"aten.linear": F - 1},
        maps=linears(F),
    ),
    "interaction": case(bilinear, after=WIDE, maps=linears(6)),
    "interaction, with bias": case(bilinear, after=WIDE, maps=linears(6, bias=True)),
    "interaction, turned": case(lambda m, x: bilinear(m, x, turned=True), after=WIDE, maps=linears(6)),
    "interaction, lower triangle": case(lambda m, x: bilinear(m, x, REVERSED), maps=linears(6), after=WIDE | {"aten.index_select": 0}),
    "interaction, any order": case(
        lambda m, x: bilinear(m, x, PAIRS[::-1]), maps=linears(6), after=WIDE
    ),
    "interaction, as products of matrices": case(
        lambda m, x: torch.cat([(x[:, i] @ m.w[k]) * x[:, j] for k, (i, j) in enumerate(PAIRS)], 1),
        after=WIDE,
        w=matrices(6, D, D),
    ),
    "field-matrixed, summed": case(
        lambda m, x: torch.stack([((x[:, i] @ m.w[k]) * x[:, j]).sum(1) for k, (i, j) in enumerate(PAIRS)], 1),
        after=WIDE,
        w=matrices(6, D, D),
    ),
    "field-matrixed, added": case(
        lambda m, x: sum(((x[:, i] @ m.w[k]) * x[:, j]).sum(1) for k, (i, j) in enumerate(PAIRS)),
        after=WIDE,
        w=matrices(6, D, D),
    ),
}  # fmt: skip

WIDE_X = (torch.randn(3, F, 16),)
GROUPED = {"aten.mul.Tensor": F - 1, "aten.index_select": 0}
WIDE_ROWS = {
    "pairs": case(lambda m, x: torch.cat([x[:, i] * x[:, j] for i, j in PAIRS], 1), WIDE_X, GROUPED),
    "pairs turned": case(lambda m, x: torch.stack([x[:, j] * x[:, i] for i, j in PAIRS], 1), WIDE_X, GROUPED),
    "lower triangle": case(lambda m, x: torch.cat([x[:, i] * x[:, j] for i, j in REVERSED], 1), WIDE_X, GROUPED),
    "dot products": case(
        lambda m, x: torch.stack([(x[:, i] * x[:, j]).sum(1) for i, j in PAIRS], 1),
        WIDE_X,
        GROUPED | {"aten.sum.dim_IntList": F - 1},
    ),
    "weighted, added up": case(
        lambda m, x: sum((x[:, i] * x[:, j]).sum(1) * m.w[i, j] for i, j in PAIRS), WIDE_X, {}, w=matrices(F, F)
    ),
    "one matrix": case(
        lambda m, x: torch.cat([m.map(x[:, i]) * x[:, j] for i, j in PAIRS], 1),
        WIDE_X,
        GROUPED | {"aten.linear": 1},
        map=nn.Linear(16, 16),
    ),
    "a matrix for each field": case(
        lambda m, x: torch.cat([m.maps[i](x[:, i]) * x[:, j] for i, j in PAIRS], 1),
        WIDE_X,
        GROUPED | {"aten.linear": F - 1},
        maps=nn.ModuleList(nn.Linear(16, 16) for _ in range(F)),
    ),
    "tensors of their own": case(
        lambda m, x: (lambda v: torch.cat([v[i] * v[j] for i, j in PAIRS], 1))([x[:, i].exp() for i in range(F)]),
        WIDE_X,
        GROUPED | {"aten.cat": 2},
    ),
    "any order": case(
        lambda m, x: torch.cat([x[:, i] * x[:, j] for i, j in [*PAIRS[::2], *PAIRS[1::2]]], 1), WIDE_X, ONE
    ),
    "field-aware": case(
        lambda m, x: torch.stack([x[:, i, j] * x[:, j, i] for i, j in PAIRS], 1), (torch.randn(3, F, F, 16),), ONE
    ),
}

LISTS = {
    "two lists": case(
        lambda m, x: torch.cat([x[:, [i]] for i, _ in PAIRS], 1) * torch.cat([x[:, [j]] for _, j in PAIRS], 1),
        after=ONE | {"aten.cat": 0},
    ),
    "two stacks": case(
        lambda m, x: torch.stack([x[:, i] for i, _ in PAIRS], 1) * torch.stack([x[:, j] for _, j in PAIRS], 1),
        after=ONE | {"aten.stack": 0},
    ),
    "two lists of tensors of their own": case(
        lambda m, x: (lambda v: torch.cat([v[i] for i, _ in PAIRS], 1) * torch.cat([v[j] for _, j in PAIRS], 1))(
            [x[:, [i]].exp() for i in range(F)]
        ),
        after=ONE | {"aten.cat": 1},
    ),
    "one list": case(
        lambda m, x: torch.cat([x[:, [i]] for i, _ in PAIRS], 1).unsqueeze(1) * m.kernel,
        after=ONE | {"aten.cat": 0},
        kernel=matrices(D, 6, D),
    ),
}

#: All cases in which the pass fires.
FIRES = PRODUCTS | SUMMED | BILINEAR | LISTS | {f"wide rows: {name}": held for name, held in WIDE_ROWS.items()}


TABLES = {"products": PRODUCTS, "summed": SUMMED, "bilinear": BILINEAR, "lists": LISTS, "wide": WIDE_ROWS}
