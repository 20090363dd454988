"""hoist-requests: operators over columns of both sides are split into the request's part and the candidate's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hoist_cases import KEYS, PASS, QUERY, C, R, check, linear, narrow_share, shared
from near_misses import check_near_misses
from pass_cases import operators, run
from torch import Tensor

from recfx.ir import Exactness
from recfx.ir.op_sets import ADDITIONS
from recfx.passes import HoistRequests

aten = torch.ops.aten


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_a_linear_over_columns_of_both_is_split(bias: bool, many: bool) -> None:
    program = shared(lambda m, r, c: m.a(torch.cat([c, r, c * 2], 1)).relu(), (R, C), many=many, a=linear(3, 14, bias))
    result = check(program)
    assert narrow_share(result, aten.linear.default) == (1, 1)
    widths = {
        n.target: tuple(t.shape)
        for n, t in ((n, result.state()[str(n.target)]) for n in result.graph.find_nodes(op="get_attr"))
    }
    assert {(3, 8), (3, 6)} <= set(widths.values())
    assert operators(result)["aten.cat"] == 1


def test_linears_that_share_their_input_share_its_parts() -> None:
    program = shared(
        lambda m, r, c: m.a(x := torch.cat([r, c, c * 2], 1)) + m.b(x), (R, C), a=linear(3, 14), b=linear(3, 14)
    )
    result = check(program)
    assert narrow_share(result, aten.linear.default) == (2, 2)
    assert operators(result)["aten.cat"] == 1


def test_tied_weights_are_split_for_each_use() -> None:
    program = shared(lambda m, r, c: m.a(torch.cat([r, c], 1)) * m.a(torch.cat([r * 2, c], 1)), (R, C), a=linear(3, 10))
    assert narrow_share(check(program), aten.linear.default) == (2, 2)


def test_few_columns_are_not_worth_a_split() -> None:
    program = shared(lambda m, r, c: m.a(torch.cat([r, c], 1)), (R, C), a=linear(3, 10))
    result = run(HoistRequests(least_columns=7), program)
    assert ["take only 6 input columns" in m.reason for m in result.records[0].misses] == [True]
    assert narrow_share(result.program, aten.linear.default) == (0, 1)


def expanded(query: Tensor, keys: Tensor) -> Tensor:
    return query.unsqueeze(1).expand(-1, keys.shape[1], -1)


ACTIVATION_UNITS: dict[str, Callable[[Tensor, Tensor], list[Tensor]]] = {
    "q, k, q-k, q*k": lambda q, k: [q, k, q - k, q * k],
    "q, k, k-q, q*k": lambda q, k: [q, k, k - q, q * k],
    "k, q, k*q, k-q": lambda q, k: [k, q, k * q, k - q],
    "q, q-k, k": lambda q, k: [q, q - k, k],
    "q-k, q*k": lambda q, k: [q - k, q * k],
    "q, k, q+k": lambda q, k: [q, k, q + k],
    "q, k": lambda q, k: [q, k],
}


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("flatten", [False, True])
@pytest.mark.parametrize("name", sorted(ACTIVATION_UNITS))
def test_the_first_layer_of_target_attention_is_split(name: str, flatten: bool, many: bool) -> None:
    def body(m: Any, keys: Tensor, query: Tensor) -> Tensor:
        x = torch.cat(ACTIVATION_UNITS[name](expanded(query, keys), keys), -1)
        if flatten:
            return m.a(x.view(-1, x.shape[-1])).sigmoid().view(-1, keys.shape[1], 3)
        return m.a(x).sigmoid()

    width = 4 * len(ACTIVATION_UNITS[name](expanded(QUERY, KEYS), KEYS))
    result = check(shared(body, (KEYS, QUERY), many=many, a=linear(3, width)))
    wide = [n.meta["val"].shape[-1] for n in result.graph.nodes if n.target is aten.cat.default]
    assert wide == []  # the tensor of all columns for every position is not built
    places = [
        tuple(map(str, n.args[0].meta["val"].shape[:2])) for n in result.graph.nodes if n.target is aten.linear.default
    ]
    once = str(result.placeholders()[0].meta["val"].shape[0])
    assert sum(rows != once and length == "7" for rows, length in places) == name.count("*")


@pytest.mark.parametrize("alpha", [1, 2, -0.5])
@pytest.mark.parametrize("combine", [torch.add, torch.sub])
def test_sums_scaled_by_alpha_keep_their_meaning(combine: Callable[..., Tensor], alpha: float) -> None:
    def body(m: Any, keys: Tensor, query: Tensor) -> Tensor:
        queries = expanded(query, keys)
        return m.a(torch.cat([queries, keys, combine(queries, keys, alpha=alpha), queries * keys], -1))

    result = check(shared(body, (KEYS, QUERY), a=linear(3, 16)))
    scaled = [n for n in result.graph.nodes if n.target in ADDITIONS and "alpha" in n.kwargs]
    assert bool(scaled) == (alpha != 1)  # a scaled concatenation is not split


@pytest.mark.parametrize("many", [False, True])
def test_splits_that_differ_by_one_argument_keep_their_meaning(many: bool) -> None:
    def body(name: str, m: Any, keys: Tensor, query: Tensor) -> Tensor:
        return m.a(torch.cat(ACTIVATION_UNITS[name](expanded(query, keys), keys), -1)).sigmoid()

    def picked(m: Any, r: Tensor, c: Tensor) -> Tensor:
        return m.a(torch.cat([r, c], 1)[:, [9, 3, 0, 7, 1, 2, 8, 4, 5, 6]])

    programs = [
        shared(partial(body, name), (KEYS, QUERY), many=many, a=linear(3, 4 * (1 + name.count(","))))
        for name in ("q, k, q-k, q*k", "q, k, q+k")
    ]
    programs.append(shared(picked, (R, C), many=many, a=linear(3, 10)))
    check_near_misses(PASS, programs, Exactness.REASSOC)


def test_repeated_queries_are_recognised_too() -> None:
    def body(m: Any, keys: Tensor, query: Tensor) -> Tensor:
        queries = query.unsqueeze(1).repeat(1, 7, 1)
        return m.a(torch.cat([queries, keys, queries - keys, queries * keys], -1))

    result = check(shared(body, (KEYS, QUERY), a=linear(3, 16)))
    assert operators(result)["aten.cat"] == 0


def test_one_products_of_all_candidates_with_the_history() -> None:
    program = shared(lambda m, k, q: torch.bmm(q[:, None], k.transpose(1, 2)).softmax(-1) @ k, (KEYS, QUERY))
    result = check(program)
    assert operators(result)["aten.bmm"] == 0


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("dims", [[1], [1, 2]])
def test_factorization_machines_sum_the_request_once(dims: list[int], many: bool) -> None:
    def body(m: Any, r: Tensor, c: Tensor) -> Tensor:
        v = torch.stack([r[:, :4], c, r[:, 2:]], 1)
        return (v.sum(1).square()).sum(1) - v.square().sum(dims).reshape(v.shape[0], -1).sum(1) + (v * v).sum(1).sum(1)

    result = check(shared(body, (R, C), many=many))
    assert narrow_share(result, aten.stack.default) == (1, 0) or operators(result)["aten.stack"] <= 2
    assert narrow_share(result, aten.sum.dim_IntList)[0] >= 3


def dots(form: str, n: int = 4) -> Callable[..., Any]:
    def body(m: Any, r: Tensor, c: Tensor) -> Tensor:
        parts = [c, r[:, :4], c * 2, r[:, 2:]]
        if form == "view":
            v = torch.cat(parts, 1).view(-1, n, 4)
        elif form == "cat":
            v = torch.cat([p[:, None] for p in parts], 1)
        else:
            v = torch.stack(parts, 1)
        products = v @ v.transpose(1, 2) if form == "view" else torch.bmm(v, v.permute(0, 2, 1))
        return m.a(torch.cat([c, products[:, m.rows, m.columns]], 1))

    return body


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("form", ["stack", "cat", "view"])
@pytest.mark.parametrize("offset", [-1, 0])
def test_dots_between_fields_of_the_request_are_made_once(offset: int, form: str, many: bool) -> None:
    rows, columns = torch.tril_indices(4, 4, offset)
    state = {"a": linear(3, 4 + len(rows)), "rows": rows, "columns": columns}
    result = check(shared(dots(form), (R, C), many=many, **state))
    # The next layer accepts the columns in any order.
    assert operators(result)["aten.index_select"] == (2 if many else 0)
    assert narrow_share(result, aten.index.Tensor) == (1, 1)
    assert narrow_share(result, aten.linear.default) == (1, 1)


def test_dots_that_are_read_elsewhere_stay() -> None:
    rows, columns = torch.tril_indices(2, 2, -1)

    def body(m: Any, r: Tensor, c: Tensor) -> Any:
        v = torch.stack([r[:, :4], c], 1)
        products = torch.bmm(v, v.transpose(1, 2))
        return products[:, m.rows, m.columns], products.sum(1)

    result = run(PASS, shared(body, (R, C), rows=rows, columns=columns))
    assert any("read elsewhere" in m.reason for m in result.records[0].misses)
