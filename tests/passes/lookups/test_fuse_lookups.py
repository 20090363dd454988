"""fuse-lookups: lookups become one operator that writes into the concatenation's buffer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lookup_cases import BAGGED, CUBE, DENSE, IDS, ONE, WEIGHTS, case, features, tables
from near_misses import check_near_misses
from pass_cases import Case, Function, check_does_not_fire, check_fires, few_models, operators, program_of, run
from torch import nn
from torch.nn import functional as F

from recfx.capture import capture
from recfx.errors import CaptureError
from recfx.ir import Exactness, verify_numeric
from recfx.ir.program import Origin
from recfx.ops.lookup import decode, grouped_lookup
from recfx.testing import assert_pass_preserves


def bag(mode: str = "sum", **options: Any) -> Callable[..., Any]:
    def body(m: Any, i: torch.Tensor, *w: torch.Tensor) -> torch.Tensor:
        pooled = F.embedding_bag(i, m.a.weight, mode=mode, per_sample_weights=w[0] if w else None, **options)
        return torch.cat([pooled, m.b(i[:, 1])], 1)

    return body


def interaction(m: Any, i: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
    stacked = torch.stack([m.a(i[:, 0]), m.b(i[:, 1])], 1)
    pairs = torch.bmm(stacked, stacked.transpose(1, 2)).flatten(1)
    return pairs.sum(1, keepdim=True) + torch.cat([dense, stacked.flatten(1)], 1)


def two_consumers(m: Any, i: torch.Tensor, dense: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    parts = [m.a(i[:, 0]), m.b(i[:, 1]), m.a(i[:, 2])]
    fields = torch.stack(parts, 1)
    return fields.sum(1).square() - fields.square().sum(1), torch.cat([dense, *parts], 1)


EXACT = {
    "columns by select": case(lambda m, i: torch.cat([m.a(i[:, 0]), m.c(i[:, 3])], 1)),
    "columns by unbind": case(lambda m, i: torch.cat([t(x) for t, x in zip((m.a, m.c), i.unbind(1), strict=False)], 1)),
    "columns by slice": case(lambda m, i: torch.cat([m.a(i[:, 1:2]).squeeze(1), m.c(i[:, 2:3]).flatten(1)], -1)),
    "columns by split": case(lambda m, i: torch.cat([m.a(x).squeeze(1) for x in i.split(1, 1)], 1)),
    "vectors": case(lambda m, i, j: torch.cat([m.a(i), m.c(j)], 1), IDS[:, 0], IDS[:, 1]),
    "int32": case(lambda m, i: torch.cat([m.a(i[:, 0]), m.c(i[:, 3])], 1), IDS.int()),
    "stack": case(lambda m, i: torch.stack([m.a(i[:, 0]), m.b(i[:, 3])], 1)),
    "dense": case(lambda m, i, d: torch.cat([d, m.a(i[:, 0]), d * 2, m.c(i[:, 1])], 1), IDS, DENSE),
    "stack in cat": case(
        lambda m, i, d: torch.cat([d[:, :4].unsqueeze(1), torch.stack([m.a(i[:, 0]), m.b(i[:, 1])], 1)], 1), IDS, DENSE
    ),
    "twice the same": case(lambda m, i: (lambda e: torch.cat([e, e], 1))(m.a(i[:, 0]))),
    "all columns of one table": case(lambda m, i, d: torch.cat([m.a(i).flatten(1), d], 1), IDS, DENSE),
    "three-dimensional ids": case(
        lambda m, i, d: torch.cat([m.a(i[:, 1]).flatten(1), m.b(i).flatten(1), d], 1), CUBE, DENSE
    ),
    "sequences": case(lambda m, i: torch.cat([m.a(i), m.c(i)], 2)),
    "sequences with dense": case(lambda m, i: torch.cat([m.a(i), m.c(i), m.b(i) * 2], -1), after={}),
    "first order": case(lambda m, i: torch.cat([m.one(i[:, k]) for k in range(3)], 1)),
    "side by side": case(lambda m, i: m.a(i[:, 0]) * m.b(i[:, 1])),
    "sequences side by side": case(lambda m, i: m.a(i) * m.b(i)),
    "ids computed": case(lambda m, i: torch.cat([m.a((i[:, 0] * 3 + i[:, 1]) % 9), m.b(i[:, 2])], 1)),
    "one lookup": case(lambda m, i, d: torch.cat([m.a(i[:, 0]), d], 1), IDS, DENSE),
    "index_select": case(lambda m, i, d: torch.cat([torch.index_select(m.a.weight, 0, i[:, 0]), d], 1), IDS, DENSE),
}
REASSOC = {
    "bag": case(bag(), after=BAGGED),
    "mean bag": case(bag("mean"), after=BAGGED),
    "bag with padding": case(bag(padding_idx=3), after=BAGGED),
    "mean bag with negative padding": case(bag("mean", padding_idx=-1), after=BAGGED),
    "weighted bag": case(bag(), IDS, WEIGHTS, after=BAGGED),
    "a bag alone": case(lambda m, i: F.embedding_bag(i, m.a.weight, mode="sum") * 2, after=BAGGED),
    "stack read twice": case(interaction, IDS, DENSE),
    "first order summed": case(lambda m, i: torch.stack([m.one(i[:, k]) for k in range(3)], 1).sum((1, 2))),
    "two consumers": case(two_consumers, IDS, DENSE, fired=2, after={"recfx.grouped_lookup": 1, "aten.embedding": 0}),
}


@pytest.mark.parametrize("name", EXACT)
def test_moves_rows_exactly(name: str) -> None:
    check_fires("fuse-lookups", EXACT[name], Exactness.EXACT)


@pytest.mark.parametrize("name", REASSOC)
def test_pools(name: str) -> None:
    check_fires("fuse-lookups", REASSOC[name], Exactness.REASSOC)


def test_programs_that_differ_by_one_argument_keep_their_meaning() -> None:
    cases = [*EXACT.values(), *REASSOC.values()]
    check_near_misses("fuse-lookups", map(program_of, cases), Exactness.REASSOC)


def refused(reason: str, body: Callable[..., Any], *inputs: torch.Tensor) -> Case:
    return Case(lambda: Function(body, **tables()), inputs or (IDS,), reason=reason)


MAX = refused("maximum", lambda m, i: torch.cat([F.embedding_bag(i, m.a.weight, mode="max"), i.float()], 1))
NEGATIVE = {
    "maximum": MAX,
    "alone": refused("no other lookup", lambda m, i: m.a(i[:, 0]) * 2),
    "joined along the batch": refused(
        "joins rows", lambda m, i: (lambda rows: torch.cat([rows, rows * 2], 0))(m.a(i[:, 0]))
    ),
    "a computed table": refused(
        "computed", lambda m, i: torch.cat([F.embedding(i[:, 0], m.a.weight * i.sum()), i.float()], 1)
    ),
    "an integer join": refused("no other lookup", lambda m, i: torch.cat([i, i], 1) + m.a(i[:, 0])[:, :1]),
    "different rows": refused("no other lookup", lambda m, i, j: m.a(i[:, :1]) + m.b(j), IDS, torch.tensor([[1, 2]])),
    "ids that need the other lookup": refused(
        "no other lookup", lambda m, i: m.b((m.a(i[:, 0]).sum(1).abs() % 9).long())
    ),
}


@pytest.mark.parametrize("name", NEGATIVE)
def test_leaves_alone(name: str) -> None:
    check_does_not_fire("fuse-lookups", NEGATIVE[name])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_tables_of_another_dtype_stay(dtype: torch.dtype) -> None:
    body = Function(lambda m, i: torch.cat([m.a(i[:, 0]), m.b(i[:, 1])], 1), **tables()).to(dtype)
    check_does_not_fire("fuse-lookups", Case(lambda: body, (IDS,), reason="not float32"))


def test_renormalised_rows_are_never_fused() -> None:
    body = Function(lambda m, i: torch.cat([m.a(i[:, 0]), m.b(i[:, 1])], 1), **tables())
    body.a.max_norm = body.b.max_norm = 0.5
    with pytest.raises(CaptureError):  # a model that writes to its tables is refused before any pass runs
        capture(body, (IDS,))


def test_shifted_fields_of_a_shared_table_have_bases() -> None:
    offsets = torch.tensor([0, 3, 7])

    def body(m: Any, ids: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
        return torch.cat([m.t(ids + m.offsets).flatten(1), dense], 1)

    made = Function(body, t=nn.Embedding(20, 2), offsets=offsets)
    after = check_fires("fuse-lookups", Case(lambda: made, (CUBE[:, 0], DENSE), 1, ONE), Exactness.EXACT)
    assert [f.base for f in features(after)[0]] == [0, 3, 7]
    assert len(after.state()) == 1


def test_float_columns_are_converted_once() -> None:
    """As in deepctr-torch: one float matrix holds ids and dense values."""
    x = torch.cat([IDS.float(), DENSE], 1)

    def body(m: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        vectors = [t(x[:, k : k + 1].long()) for k, t in enumerate((m.a, m.b, m.a))]
        dense = torch.cat([x[:, k : k + 1] for k in range(6, 11)], dim=-1)
        linear = torch.cat([m.one(x[:, k : k + 1].long()) for k in range(3)], dim=-1).sum(-1)
        fields = torch.cat(vectors, dim=1)
        deep = torch.cat([torch.flatten(torch.cat(vectors, dim=-1), start_dim=1), torch.flatten(dense, 1)], dim=-1)
        return linear + fields.sum(1).square().sum(1, keepdim=True), deep

    after = run("canonicalize", program_of(Case(lambda: Function(body, **tables()), (x,)))).program
    result = run("fuse-lookups", after)
    verify_numeric(after, result.program, Exactness.REASSOC)
    counts = operators(result.program)
    assert counts["aten.embedding"] == counts["aten.cat"] == 0
    assert counts["aten.to.dtype"] <= 2
    deep = next(
        n
        for n in result.program.graph.nodes
        if n.target is grouped_lookup and len(decode(n.args[5])) == 3 and n.args[6]
    )
    assert len(deep.args[4]) == 1  # five dense columns are copied at once
    assert run("fuse-lookups", result.program).records[0].fired == 0


def test_tied_tables_are_listed_once() -> None:
    shared = nn.Embedding(9, 4)
    body = Function(lambda m, i: torch.cat([m.p(i[:, 0]), m.q(i[:, 1])], 1), p=shared, q=shared)
    after = check_fires("fuse-lookups", Case(lambda: body, (IDS,), 1, ONE), Exactness.EXACT)
    (node,) = (n for n in after.graph.nodes if n.target is grouped_lookup)
    assert len(node.args[0]) == 1


def test_a_dense_part_that_needs_a_lookup_of_its_concatenation() -> None:
    """As in DIN: the attention over the history needs the item's vector, and both are concatenated."""

    def body(m: Any, i: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
        item = torch.cat([m.a(i[:, 0]), m.c(i[:, 1])], 1)
        return torch.cat([m.b(i[:, 2]), item * d[:, :1], item], 1)

    after = check_fires(
        "fuse-lookups",
        case(body, IDS, DENSE, fired=2, after={"recfx.grouped_lookup": 2, "aten.cat": 0}),
        Exactness.EXACT,
    )
    assert operators(after)["aten.embedding"] == 0


def test_origins_stay_apart() -> None:
    program = program_of(EXACT["side by side"])
    other = program_of(case(lambda m, i, j: m.a(i[:, 0]) * m.b(j[:, 1]), IDS, IDS.clone()))
    other.origins = {other.signature.leaves[0].name: Origin.REQUEST, other.placeholders()[0].name: Origin.REQUEST}
    assert run("fuse-lookups", program).records[0].fired == 1
    assert run("fuse-lookups", other).records[0].fired == 0


@few_models
@given(data=st.data())
def test_any_concatenation_keeps_its_bits(data: st.DataObject) -> None:
    rng = torch.Generator().manual_seed(data.draw(st.integers(0, 2**32)))
    kinds = data.draw(st.lists(st.sampled_from(["one", "pair", "dense", "shared"]), min_size=1, max_size=6))
    dims = [data.draw(st.integers(1, 4)) for _ in kinds]
    columns = [data.draw(st.integers(0, 4)) for _ in kinds]
    made = {f"t{k}": nn.Parameter(torch.randn(5, dim, generator=rng)) for k, dim in enumerate(dims)}
    extra = data.draw(st.booleans())

    def body(m: Any, ids: torch.Tensor, dense: torch.Tensor) -> Any:
        parts = []
        for k, (kind, column) in enumerate(zip(kinds, columns, strict=True)):
            table = getattr(m, "t0" if kind == "shared" else f"t{k}")
            if kind == "dense":
                parts.append(dense[:, : dims[k]] * 2)
            elif kind == "pair":
                parts.append(F.embedding(ids[:, column : column + 2], table).flatten(1))
            else:
                parts.append(F.embedding(ids[:, column], table))
        joined = torch.cat(parts, 1)
        return (joined, parts[0] * 2) if extra else joined

    inputs = (torch.randint(0, 5, (3, 6), generator=rng), torch.randn(3, 4, generator=rng))
    program = program_of(Case(lambda: Function(body, **made), inputs))
    result = run("fuse-lookups", program)
    verify_numeric(program, result.program, Exactness.EXACT)
    joined = len(kinds) > 1  # a concatenation of one tensor is that tensor
    assert operators(result.program)["aten.embedding"] == 0 or not joined


def test_random_graphs_keep_their_meaning() -> None:
    assert_pass_preserves("fuse-lookups", max_examples=15)
