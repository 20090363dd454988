"""Helpers of the tests of the passes over codes: models that score items, and their expected scores. Imported as
`score_cases`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pass_cases import Case, Function, run
from torch import nn
from torch.nn import functional as F

from recfx.capture import capture
from recfx.ir import Exactness, Program, same_graph, verify_meta, verify_numeric
from recfx.ops.hamming import code_dot, round_queries
from recfx.pipeline import Pass, Pipeline

USERS, ITEMS, DIM = 9, 13, 21  # no multiple of 8
_RNG = torch.Generator().manual_seed(0)
USER = torch.randint(0, USERS, (4,), generator=_RNG)
ITEM = torch.randint(0, ITEMS, (4,), generator=_RNG)
CANDIDATES = torch.randint(0, ITEMS, (4, 5), generator=_RNG)
PLACES = torch.tensor([3, 1, 12])


def tables() -> dict[str, Any]:
    """Users and items, the items' table under a second name, and a bias."""
    users, items = nn.Embedding(USERS, DIM), nn.Embedding(ITEMS, DIM)
    again = nn.Embedding(ITEMS, DIM)
    again.weight = items.weight
    return {"u": users, "i": items, "again": again, "bias": nn.Parameter(torch.randn(ITEMS)), "places": PLACES}


def case(body: Callable[..., Any], *inputs: torch.Tensor, fired: int = 1, reason: str = "") -> Case:
    """A case over `tables`."""
    return Case(lambda: Function(body, **tables()), inputs, fired, reason=reason)


FIRES = {
    "pairs": case(lambda m, u, i: (m.u(u) * m.i(i)).sum(-1), USER, ITEM),
    "pairs, kept dimension": case(lambda m, u, i: (m.u(u) * m.i(i)).sum(1, keepdim=True), USER, ITEM),
    "pairs by vecdot": case(lambda m, u, i: torch.linalg.vecdot(m.u(u), m.i(i)), USER, ITEM),
    "pairs by einsum": case(lambda m, u, i: torch.einsum("bd,bd->b", m.u(u), m.i(i)), USER, ITEM),
    "pairs by bmm": case(lambda m, u, i: torch.bmm(m.u(u)[:, None], m.i(i)[:, :, None])[:, 0, 0], USER, ITEM),
    "candidates": case(lambda m, u, c: (m.u(u)[:, None] * m.i(c)).sum(-1), USER, CANDIDATES),
    "candidates first": case(lambda m, u, c: (m.i(c) * m.u(u).unsqueeze(1)).sum(2), USER, CANDIDATES),
    "candidates by bmm": case(
        lambda m, u, c: torch.bmm(m.u(u)[:, None], m.i(c).transpose(1, 2)).squeeze(1), USER, CANDIDATES
    ),
    "candidates by matmul": case(lambda m, u, c: (m.i(c) @ m.u(u).unsqueeze(-1)).squeeze(-1), USER, CANDIDATES),
    "candidates by einsum": case(lambda m, u, c: torch.einsum("bd,bcd->bc", m.u(u), m.i(c)), USER, CANDIDATES),
    "candidates by einsum, turned": case(lambda m, u, c: torch.einsum("bcd,bd->cb", m.i(c), m.u(u)), USER, CANDIDATES),
    "one candidate": case(
        lambda m, u, c: torch.bmm(m.i(c), m.u(u)[:, :, None]).squeeze(2), USER, CANDIDATES[:, :1].contiguous()
    ),
    "expanded query": case(
        lambda m, u, c: (m.u(u)[:, None].expand(-1, 5, -1) * m.i(c)).sum(-1), USER, CANDIDATES
    ),
    "candidates of all requests": case(lambda m, u: m.u(u) @ m.i(m.places).T, USER),
    "candidates by index_select": case(lambda m, u: m.u(u) @ torch.index_select(m.i.weight, 0, m.places).t(), USER),
    "one query for all": case(lambda m, u, i: (m.u(u[:1]) * m.i(i)).sum(-1), USER, ITEM),
    "the whole catalogue": case(lambda m, u: m.u(u) @ m.i.weight.T, USER),
    "the whole catalogue by linear": case(lambda m, u: F.linear(m.u(u), m.i.weight), USER),
    "the whole catalogue with a bias": case(lambda m, u: F.linear(m.u(u), m.i.weight, m.bias), USER),
    "the whole catalogue by einsum": case(lambda m, u: torch.einsum("bd,nd->bn", m.u(u), m.i.weight), USER),
    "the whole catalogue, turned": case(lambda m, u: torch.einsum("nd,bd->nb", m.i.weight, m.u(u)), USER),
    "a bias and a sigmoid behind": case(
        lambda m, u, i: torch.sigmoid((m.u(u) * m.i(i)).sum(-1) + m.bias[i]), USER, ITEM
    ),
    "the best behind": case(lambda m, u: (m.u(u) @ m.i.weight.T).topk(3).values, USER),
    "two scores of one table": case(
        lambda m, u, i, c: ((m.u(u) * m.i(i)).sum(-1), (m.u(u)[:, None] * m.i(c)).sum(-1)),
        USER, ITEM, CANDIDATES, fired=2,
    ),
    "a tied table": case(
        lambda m, u, i, c: ((m.u(u) * m.i(i)).sum(-1), (m.u(u)[:, None] * m.again(c)).sum(-1)),
        USER, ITEM, CANDIDATES, fired=2,
    ),
}  # fmt: skip


def wide(function: Callable[[torch.Tensor], torch.Tensor]) -> nn.Module:
    return nn.Embedding.from_pretrained(function(torch.randn(ITEMS, DIM)))


def with_items(items: Callable[[torch.Tensor], torch.Tensor]) -> Case:
    """Pairs over another table of items."""

    def model() -> nn.Module:
        return Function(lambda m, u, i: (m.u(u) * m.i(i)).sum(-1), **{**tables(), "i": wide(items)})

    return Case(model, (USER, ITEM))


def _with(table: torch.Tensor, bad: float) -> torch.Tensor:
    table[4, 3] = bad
    return table


LEAVES_ALONE: dict[str, tuple[Case, str]] = {
    "no table": (case(lambda m, u, x: (m.u(u).tanh() * x).sum(-1), USER, torch.randn(4, DIM)), "neither side looks up rows"),
    "a computed table": (
        case(lambda m, u, i, x: (m.u(u).tanh() * F.embedding(i, m.i.weight * x.mean())).sum(-1), USER, ITEM, torch.randn(4, DIM)),
        "neither side looks up rows",
    ),
    "a tower of items": (
        case(lambda m, u, i: (m.u(u).tanh() * m.i(i).tanh()).sum(-1), USER, ITEM), "neither side looks up rows",
    ),
    "a pooled lookup": (
        case(lambda m, u, c: (m.u(u).tanh() * m.i(c).mean(1)).sum(-1), USER, CANDIDATES), "neither side looks up rows",
    ),
    "a layer behind": (
        case(lambda m, u, i: F.linear((m.u(u) * m.i(i)).sum(-1, keepdim=True), m.bias[:, None]), USER, ITEM),
        "they belong to a layer",
    ),
    "attention": (
        case(lambda m, u, c: torch.bmm(torch.softmax(torch.bmm(m.u(u)[:, None], m.i(c).mT), -1), m.i(c)), USER, CANDIDATES),
        "they belong to a layer",
    ),
    "the product is read as well": (
        case(lambda m, u, i: ((p := m.u(u) * m.i(i)).sum(-1), p), USER, ITEM), "read elsewhere",
    ),
    "sums over the rows": (
        case(lambda m, u, i: (m.u(u) * m.i(i)).sum((0, 1)), USER, ITEM), "several dimensions",
    ),
    "several queries a row": (
        case(lambda m, u, c: m.u(c % USERS).tanh() @ m.i.weight.T, USER, CANDIDATES), "more dimensions",
    ),
    "an einsum of more": (
        case(lambda m, u, c: torch.einsum("bd,bcd->b", m.u(u), m.i(c)), USER, CANDIDATES), "more than a product",
    ),
    "a constant query": (case(lambda m, i: m.i(i) @ m.u.weight[:1].tanh().T, ITEM), "the query is constant"),
    "a row that would grow": (
        Case(
            lambda: Function(lambda m, u, i: (m.u(u) * m.i(i)).sum(-1), u=nn.Embedding(USERS, 2), i=nn.Embedding(ITEMS, 2)),
            (USER, ITEM),
        ),
        "16 bytes instead of 8",
    ),
    "a NaN": (with_items(lambda t: _with(t, float("nan"))), "row 4 of the table holds NaN"),
    "an infinity": (with_items(lambda t: _with(t, float("inf"))), "row 4 of the table holds NaN"),
    "doubles": (
        Case(lambda: Function(lambda m, u, i: (m.u(u) * m.i(i)).sum(-1), **tables()).double(), (USER, ITEM)), "torch.float64",
    ),
}  # fmt: skip


def prepared(given: Case) -> Program:
    """A case's program in the form that the passes over codes receive."""
    torch.manual_seed(0)
    return Pipeline("canonicalize,fold-constants").run(capture(given.model(), given.inputs)).program


def check(
    item: Pass, given: Case, rounded: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor | None]]
) -> Program:
    """Asserts that the pass fires as often as expected, in one run, and that its scores are products of rounded queries
    with rounded items.

    Args:
        item: The pass.
        given: A case over `tables`.
        rounded: A table of items -> the values of its codes, and their rotation.
    """
    program = prepared(given)
    result = run(item, program)
    (record,) = result.records
    assert record.fired == given.fired, (record.misses, str(program))
    verify_meta(result.program)
    verify_numeric(program, result.program, Exactness.APPROX)
    assert run(item, result.program).records[0].fired == 0
    assert same_graph(result.program, run(item, result.program).program) is None

    torch.manual_seed(0)
    model: Any = given.model()
    values, rotation = rounded(model.i.weight.detach())
    turn = torch.eye(DIM) if rotation is None else rotation
    whole, scale = round_queries(model.u.weight.detach() @ turn, item.options()["query_bits"])
    model.u.weight.data = (scale * whole @ turn.T.double()).float()
    model.i.weight.data = (values.double() @ turn.T.double()).float()
    for batch in (4, 1):
        inputs = tuple(x[:batch] for x in given.inputs)
        found, expected = result.program.module(*inputs), model(*inputs)
        for a, b in zip(_flat(found), _flat(expected), strict=True):
            torch.testing.assert_close(a, b, rtol=2e-4, atol=2e-4)
    return result.program


def _flat(values: Any) -> list[torch.Tensor]:
    leaves = torch.utils._pytree.tree_leaves(values)
    return [leaf for leaf in leaves if leaf.is_floating_point()]


def calls(program: Program) -> list[Any]:
    """The scores over codes."""
    return [n for n in program.graph.nodes if n.target is code_dot]
