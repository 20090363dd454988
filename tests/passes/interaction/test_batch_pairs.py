"""batch-pairs: products of pairs of fields become one product over gathered pairs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from batch_pairs_cases import FIRES, FLAT, IDS, PAIRS, PRODUCTS, TABLES, D, F, X, bilinear, case, linears
from hypothesis import given
from hypothesis import strategies as st
from near_misses import check_near_misses
from pass_cases import Case, Function, captured, check_does_not_fire, few_models, operators, program_of, run
from torch import nn

from recfx.capture import capture
from recfx.ir import Exactness, Program, same_graph, verify_meta, verify_numeric
from recfx.pipeline import Pipeline

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


@few_models
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
