"""batch-pairs: products of pairs of fields become one product over gathered pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from near_misses import check_near_misses
from pass_cases import Case, Function, captured, check_does_not_fire, operators, program_of, run
from torch import nn

from recfx.capture import capture
from recfx.ir import Exactness, Program, same_graph, verify_meta, verify_numeric
from recfx.pipeline import Pipeline

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
FIRES = PRODUCTS | SUMMED | BILINEAR | LISTS | {f"wide rows: {name}": held for name, held in WIDE_ROWS.items()}


TABLES = {"products": PRODUCTS, "summed": SUMMED, "bilinear": BILINEAR, "lists": LISTS, "wide": WIDE_ROWS}
CLEAN = "canonicalize,fold-constants,merge-tables,merge-duplicates"


def clean(example: Case) -> Program:
    """The program of a case as the pass finds it in the default pipelines."""
    return Pipeline(CLEAN).run(program_of(example)).program


@pytest.mark.parametrize("name", FIRES)
def test_fires(name: str) -> None:
    example, program = FIRES[name], clean(FIRES[name])
    result = run("batch-pairs", program)
    counts = operators(result.program)
    assert result.records[0].fired == example.fired, (str(program), result.records[0].misses)
    assert {target: counts[target] for target in example.after} == example.after, str(result.program)
    verify_meta(result.program)
    verify_numeric(program, result.program, Exactness.EXACT if name in PRODUCTS else Exactness.REASSOC)
    again = run("batch-pairs", result.program)
    assert again.records[0].fired == 0
    assert same_graph(result.program, again.program) is None


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_programs_that_differ_by_one_argument_keep_their_meaning(table: dict[str, Case]) -> None:
    check_near_misses("batch-pairs", map(clean, list(table.values())[::4]), Exactness.REASSOC)


def shared(m: Any, x: torch.Tensor) -> Any:
    products = [x[:, i] * x[:, j] for i, j in PAIRS]
    return torch.cat(products, 1), [product.exp() for product in products]


LEAVES_ALONE = {
    "products that are read elsewhere": (shared, X, {}, "read elsewhere"),
    "five products": (lambda m, x: torch.cat([x[:, i] * x[:, j] for i, j in PAIRS[1:]], 1), X, {}, None),
    "products of different widths": (
        lambda m, x: torch.cat([x[:, :w] * x[:, 3 : 3 + w] for w in (1, 2, 3, 1, 2, 3)], 1), FLAT, {}, "one width"
    ),
    "rows joined": (lambda m, x: torch.cat([x[:, i] * x[:, j] for i, j in PAIRS]), X, {}, None),
    "quotients": (lambda m, x: torch.cat([x[:, i] / x[:, j] for i, j in PAIRS], 1), X, {}, None),
    "sums": (lambda m, x: torch.cat([x[:, i] + x[:, j] for i, j in PAIRS], 1), X, {}, None),
    "sums that are not over rows": (
        lambda m, x: torch.stack([(x[:, i] * x[:, j]).sum(0) for i, j in PAIRS]), X, {}, None
    ),
    "means": (lambda m, x: torch.stack([(x[:, i] * x[:, j]).mean(1) for i, j in PAIRS], 1), X, {}, None),
    "products with constants": (lambda m, x: torch.cat([x[:, i] * 2.0 for i in range(F)], 1), X, {}, None),
    "gated fields": (lambda m, x: torch.cat([x[:, i] * x[:, :1, 0] for i in range(F)], 1), X, {}, None),
    "a chain of differences": (
        lambda m, x: x[:, 0] * x[:, 1] - x[:, 1] * x[:, 2] - x[:, 0] * x[:, 2] - x[:, 2] * x[:, 3], X, {}, None
    ),
    "a chain of two": (lambda m, x: x[:, 0] * x[:, 1] + x[:, 1] * x[:, 2], X, {}, None),
    "integers": (lambda m, x: torch.cat([x[:, [i]] * x[:, [j]] for i, j in PAIRS], 1), IDS, {}, None),
    "lists of different fields": (
        lambda m, x: torch.cat([x[:, [i]] for i in range(F)], 1) * torch.cat([x[:, [F - 1 - i]] for i in range(F)], 1),
        X, {}, None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LEAVES_ALONE)
def test_leaves_alone(name: str) -> None:
    body, inputs, state, reason = LEAVES_ALONE[name]
    check_does_not_fire("batch-pairs", Case(lambda: Function(body, **state), inputs, reason=reason))


def test_products_of_several_widths_become_one_product_for_each() -> None:
    def body(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = x[:, :, :2].exp()
        return torch.cat([v[:, i] * v[:, j] for v in (x, y) for i, j in PAIRS], 1)

    after = run("batch-pairs", clean(case(body))).program
    assert operators(after)["aten.mul.Tensor"] == 2
    verify_numeric(program_of(case(body)), after, Exactness.EXACT)


TIED = {
    "two loops over the same matrices": (lambda m, x: (bilinear(m, x), bilinear(m, x.exp())), 2 * (F - 1), 3),
    "two loops over the same matrices in another order": (
        lambda m, x: (bilinear(m, x), bilinear(m, x, PAIRS[::-1])), 12, 6
    ),
    "a matrix that is read elsewhere": (lambda m, x: (bilinear(m, x), m.maps[2](x[:, 0]).exp()), 7, 6),
    "one matrix several times": (
        lambda m, x: torch.cat([m.maps[k % 2](x[:, i]) * x[:, j] for k, (i, j) in enumerate(PAIRS)], 1), 6, 2
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TIED)
def test_tied_matrices_are_stored_once(name: str) -> None:
    body, linear_count, matrix_count = TIED[name]
    example = case(body, maps=linears(6))
    program = clean(example)
    after = run("batch-pairs", program).program
    held = {str(node.target) for node in after.graph.find_nodes(op="get_attr") if "weight" in str(node.target)}
    assert operators(after)["aten.linear"] <= linear_count
    assert len(held) == matrix_count, held
    assert sum(after.state()[name].numel() for name in held) <= sum(t.numel() for t in program.state().values())
    verify_numeric(program, after, Exactness.REASSOC)


def test_a_batch_along_another_dimension_keeps_its_meaning() -> None:
    def body(m: Any, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x[i] * x[j] for i, j in PAIRS], 1)

    program = capture(
        Function(body).eval(),
        (torch.randn(F, 3, D),),
        dynamic_shapes={"inputs": ({1: torch.export.Dim("batch", max=64)},)},
    )
    after = run("batch-pairs", program).program
    assert operators(after)["aten.mul.Tensor"] == 1
    verify_numeric(program, after, Exactness.EXACT)


@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_any_list_of_pairs(data: st.DataObject) -> None:
    fields, width = data.draw(st.integers(2, 5)), data.draw(st.sampled_from([1, 3, 16]))
    field = st.integers(0, fields - 1)
    pairs = data.draw(st.lists(st.tuples(field, field), min_size=6, max_size=9))
    kind = data.draw(st.sampled_from(["product", "dot", "weighted", "all", "interaction"]))
    view = data.draw(st.sampled_from(["select", "slice", "split", "own"]))
    joined = data.draw(st.sampled_from(["cat", "stack", "front", "sum"]))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**16)))
    weights = torch.randn(len(pairs), width, width, generator=generator)

    def vectors(x: torch.Tensor) -> list[torch.Tensor]:
        if view == "split":
            return [part[:, 0] for part in x.split(1, 1)]
        if view == "slice":
            return [x[:, i : i + 1].flatten(1) for i in range(fields)]
        return [x[:, i] if view == "select" else x[:, i].tanh() for i in range(fields)]

    def body(m: Any, x: torch.Tensor) -> torch.Tensor:
        v = vectors(x)
        parts = [v[i] * v[j] for i, j in pairs]
        if kind == "weighted":
            parts = [part * weights[k, 0, 0].item() for k, part in enumerate(parts)]
        if kind in ("all", "interaction"):
            parts = [(v[i] @ m.w[0 if kind == "all" else k]) * v[j] for k, (i, j) in enumerate(pairs)]
        if kind == "dot":
            parts = [part.sum(1, keepdim=True) for part in parts]
        if joined == "sum":
            return sum(parts[1:], parts[0])
        return torch.cat(parts, 1) if joined == "cat" else torch.stack(parts, 0 if joined == "front" else 1)

    x = torch.randn(3, fields, width, generator=generator)
    program = Pipeline(CLEAN).run(captured(lambda: Function(body, w=nn.Parameter(weights)), (x,))).program
    after = run("batch-pairs", program)
    verify_meta(after.program)
    verify_numeric(program, after.program, Exactness.REASSOC)
    again = run("batch-pairs", after.program)
    assert again.records[0].fired == 0
    assert after.records[0].fired or len({frozenset(pair) for pair in pairs}) < len(pairs)
    if after.records[0].fired:
        assert sum(operators(after.program).values()) <= sum(operators(program).values()) + 4 * fields + 4


def test_rows_alone_and_many_give_the_same_rows() -> None:
    program = run("batch-pairs", clean(PRODUCTS["field-aware"])).program
    rows = torch.randn(9, F, F, D)
    (whole,) = program.module(rows)
    for row in (0, 4, 8):
        assert torch.equal(program.module(rows[row : row + 1])[0], whole[row : row + 1])
