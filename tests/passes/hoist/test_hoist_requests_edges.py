"""hoist-requests does not split operators that nearly are a sum, a selection of columns, a row of fields or a row of
positions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hoist_cases import KEYS, QUERY, C, R, check, linear, narrow_share, shared
from torch import Tensor

aten = torch.ops.aten


def expanded(query: Tensor, keys: Tensor) -> Tensor:
    return query.unsqueeze(1).expand(-1, keys.shape[1], -1)


@pytest.mark.parametrize("combine", [torch.add, torch.sub])
@pytest.mark.parametrize("narrow", [torch.float16, torch.bfloat16, torch.int32])
def test_sums_of_several_dtypes_stay(combine: Callable[..., Tensor], narrow: torch.dtype) -> None:
    """Their operands cannot be multiplied with the weight one by one."""

    def body(m: Any, keys: Tensor, query: Tensor) -> Tensor:
        queries = expanded(query, keys)
        return m.a(torch.cat([queries, keys, combine(queries, (keys * 3).to(narrow))], -1))

    result = check(shared(body, (KEYS, QUERY), a=linear(3, 12)))
    combined = {torch.add: aten.add.Tensor, torch.sub: aten.sub.Tensor}[combine]
    assert any(
        n.target is combined and narrow in {i.meta["val"].dtype for i in n.all_input_nodes} for n in result.graph.nodes
    )


@pytest.mark.parametrize("other", [1, 4])
def test_sums_that_broadcast_over_columns_stay(other: int) -> None:
    def body(m: Any, keys: Tensor, query: Tensor) -> Tensor:
        queries = expanded(query, keys)
        return m.a(torch.cat([queries, keys, queries - keys[..., :other]], -1))

    check(shared(body, (KEYS, QUERY), a=linear(3, 12)))


def test_sums_of_another_rank_stay() -> None:
    def body(m: Any, keys: Tensor, query: Tensor) -> Tensor:
        return m.a(torch.cat([expanded(query, keys), keys, keys + query[:, None], keys - query.sum(0)], -1))

    check(shared(body, (KEYS, QUERY), a=linear(3, 16)))


@pytest.mark.parametrize("dim", [1, -2, 2, -1])
def test_only_selections_of_columns_are_taken_apart(dim: int) -> None:
    """Keys have as many positions as columns, so that a selection of positions resembles a selection of columns."""

    def body(m: Any, keys: Tensor, query: Tensor) -> Tensor:
        return m.a(torch.cat([expanded(query, keys), keys], -1).index_select(dim, m.order))

    keys = torch.randn(5, 8, 4)
    order = torch.tensor([7, 2, 0, 5, 1, 3, 6, 4])
    result = check(shared(body, (keys, QUERY), a=linear(3, 8), order=order))
    assert narrow_share(result, aten.linear.default)[0] == (dim in (2, -1))


def test_selections_of_fewer_columns_stay() -> None:
    """Their product with all columns would be larger."""

    def body(m: Any, r: Tensor, c: Tensor) -> Tensor:
        return m.a(torch.cat([r, c], 1).index_select(1, m.order))

    result = check(shared(body, (R, C), a=linear(3, 3), order=torch.tensor([9, 0, 3])))
    assert narrow_share(result, aten.linear.default) == (0, 1)


@pytest.mark.parametrize("many", [False, True])
def test_columns_that_are_selected_several_times_count_as_often(many: bool) -> None:
    def body(m: Any, r: Tensor, c: Tensor) -> Tensor:
        return m.a(torch.cat([r, c], 1).index_select(1, m.order))

    order = torch.tensor([9, 0, 3, 0, 1, 2, 4, 5, 6, 7, 8, 8])
    result = check(shared(body, (R, C), many=many, a=linear(3, 12), order=order))
    assert narrow_share(result, aten.linear.default) == (1, 1)


@pytest.mark.parametrize("dim", [0, 1])
def test_concatenations_of_rows_or_positions_are_not_columns(dim: int) -> None:
    def body(m: Any, r: Tensor, keys: Tensor) -> Tensor:
        if dim:
            return m.a(torch.cat([r.unsqueeze(1), keys], 1))
        return m.a(torch.cat([r, keys[:, 0]], 0)).sum(0)

    check(shared(body, (torch.randn(5, 4), KEYS), a=linear(3, 4)))


STACKS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "fields": lambda r, c, d: torch.stack([r, r * 2, c, d], 1),
    "fields from the end": lambda r, c, d: torch.stack([r, r * 2, c, d], -2),
    "columns": lambda r, c, d: torch.stack([r, r * 2, c, d], 2),
    "columns from the end": lambda r, c, d: torch.stack([r, r * 2, c, d], -1),
    "joined fields": lambda r, c, d: torch.cat([t.unsqueeze(1) for t in (r, r * 2, c, d)], 1),
    "joined fields from the end": lambda r, c, d: torch.cat([t.unsqueeze(-2) for t in (r, r * 2, c, d)], -2),
    "joined columns": lambda r, c, d: torch.cat([t.unsqueeze(2) for t in (r, r * 2, c, d)], 2),
    "flat": lambda r, c, d: torch.cat([r, r * 2, c, d], 1).view(-1, 4, 4),
    "flat of other fields": lambda r, c, d: torch.cat([r[:, :2], c, d, r, r[:, 2:] * 2], 1).view(-1, 4, 4),
}


@pytest.mark.parametrize(("stack", "many"), [(name, bool(at % 2)) for at, name in enumerate(STACKS)])
def test_fields_in_any_form_keep_their_meaning(stack: str, many: bool) -> None:
    """Four fields of four numbers, so that the two dimensions could be confused."""

    def body(m: Any, r: Tensor, c: Tensor, d: Tensor) -> tuple[Tensor, ...]:
        def fields() -> Tensor:
            return STACKS[stack](r, c, d)

        rows, columns = torch.tril_indices(4, 4, -1)
        dots, others = fields(), fields()
        return (
            fields().square().sum(1),
            fields().sum((0, 1)).expand(r.shape[0], -1),
            m.a(fields().flatten(1)),
            torch.bmm(dots, dots.transpose(1, 2))[:, rows, columns],
            torch.bmm(others, (others * 2).transpose(1, 2))[:, rows, columns],
        )

    check(shared(body, (torch.randn(5, 4), C, C + 1), many=many, a=linear(3, 16)))


STEPS: list[Callable[[Any, Tensor], Tensor]] = [
    lambda m, x: m.a(x),
    lambda m, x: m.a(x.transpose(1, 2)).transpose(1, 2),
    lambda m, x: m.a(x.select(-1, 0).unsqueeze(-1).expand(-1, -1, 8)),
    lambda m, x: m.a(torch.layer_norm(x, [8])),
    lambda m, x: m.a(torch.layer_norm(x, [8, 8])),
    lambda m, x: m.a(x.permute(0, 2, 1)),
    lambda m, x: m.a(x.permute(1, 0, 2)).permute(1, 0, 2),
    lambda m, x: m.a(x.unsqueeze(1)).squeeze(1),
    lambda m, x: m.a(x.unsqueeze(2)).squeeze(2),
    lambda m, x: m.a(x.transpose(0, 1)).transpose(0, 1),
    lambda m, x: m.a(x * m.p),
    lambda m, x: m.a(x * m.p[:, :1]),
    lambda m, x: m.a(x + x.flip(1)),
    lambda m, x: m.a(x + x.sum(1, keepdim=True)),
    lambda m, x: m.a(x.softmax(1)),
    lambda m, x: m.a(x.softmax(2)),
    lambda m, x: m.a(x.cumsum(1)),
    lambda m, x: m.a(x[:, 0]).unsqueeze(1),
]


@pytest.mark.parametrize(("first", "many"), [(first, bool(first % 2)) for first in range(0, len(STEPS), 3)])
def test_positions_in_any_form_keep_their_meaning(first: int, many: bool) -> None:
    """Eight positions of eight numbers, so that the two dimensions could be confused."""

    def body(m: Any, history: Tensor, item: Tensor) -> tuple[Tensor, ...]:
        return tuple(step(m, torch.cat([history, item.unsqueeze(1)], 1)).relu() for step in STEPS[first : first + 3])

    check(shared(body, (torch.randn(5, 7, 8), torch.randn(5, 8)), many=many, a=linear(3, 8), p=torch.randn(8, 8)))
