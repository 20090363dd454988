"""quantize-tables: the tables of grouped lookups are stored in fewer bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pass_cases import Case, Function, operators, run
from torch import nn
from torch.nn import functional as F

from recfx.capture import capture
from recfx.errors import InputError
from recfx.formats import decode_rows, encode_rows
from recfx.ir import Exactness, Program, same_graph, verify_meta, verify_numeric
from recfx.ir.program import set_state
from recfx.ops.lookup import Feature, decode, encode, grouped_lookup
from recfx.passes import QuantizeTables
from recfx.pipeline import Pipeline, PipelineResult
from recfx.testing import GraphBuilder

IDS = torch.randint(0, 9, (4, 6), generator=torch.Generator().manual_seed(0))
WEIGHTS = torch.rand(4, 6, generator=torch.Generator().manual_seed(1))


def fused(case: Case) -> Program:
    """A case's program after the passes that write lookups."""
    torch.manual_seed(0)
    return Pipeline("canonicalize,form-bags,fuse-lookups").run(capture(case.model(), case.inputs)).program


def tables() -> dict[str, nn.Module]:
    return {"a": nn.Embedding(9, 16), "b": nn.Embedding(9, 5), "c": nn.Embedding(12, 3), "one": nn.Embedding(9, 1)}


def case(body: Callable[..., Any], *inputs: torch.Tensor, fired: int = 1, reason: str = "") -> Case:
    return Case(lambda: Function(body, **tables()), inputs or (IDS,), fired, reason=reason)


def lookups(program: Program) -> list[tuple[list[torch.Tensor], list[Feature]]]:
    """Tables and features of each grouped lookup."""
    state = program.state()
    calls = [n for n in program.graph.nodes if n.target is grouped_lookup]
    return [([state[str(t.target)] for t in n.args[0]], decode(n.args[5])) for n in calls]


def rounded(program: Program, bits: int, refine: bool = False) -> Program:
    """The program with the values of packed tables in float32: the expected results of the pass."""
    copy = program.clone()
    for name in {str(t.target) for n in copy.graph.nodes if n.target is grouped_lookup for t in n.args[0]}:
        table = program.state()[name].detach()
        packed = table.bfloat16() if bits == 16 else encode_rows(table, bits, refine=refine)
        set_state(copy.module, name, packed.float() if bits == 16 else decode_rows(packed, bits, table.shape[1]))
    return copy


def check(item: QuantizeTables, program: Program, fired: int) -> Program:
    """The pass fires as often as expected, does nothing in a second run, and preserves shapes at every batch."""
    result = run(item, program)
    (record,) = result.records
    assert record.fired == fired, record.misses
    verify_meta(result.program)
    verify_numeric(program, result.program, Exactness.APPROX)
    again = run(item, result.program)
    assert again.records[0].fired == 0
    assert same_graph(result.program, again.program) is None
    return result.program


FIRES = {
    "one table": case(lambda m, i: torch.cat([m.a(i[:, 0]), i.float()], 1)),
    "concatenation": case(lambda m, i: torch.cat([m.a(i[:, 0]), m.b(i[:, 1]), m.c(i[:, 2])], 1), fired=3),
    "one table of several features": case(lambda m, i: torch.cat([m.a(i[:, 0]), m.a(i[:, 1]), m.b(i[:, 2])], 1), fired=2),
    "two lookups of one table": case(
        lambda m, i: (torch.cat([m.a(i[:, 0]), m.b(i[:, 1])], 1), torch.cat([m.a(i[:, 2]), i.float()], 1)), fired=2
    ),
    "sum bag": case(lambda m, i: torch.cat([F.embedding_bag(i, m.a.weight, mode="sum"), m.b(i[:, 1])], 1), fired=2),
    "mean bag with padding": case(
        lambda m, i: torch.cat([F.embedding_bag(i, m.a.weight, mode="mean", padding_idx=3), m.b(i[:, 1])], 1), fired=2
    ),
    "weighted bag": case(
        lambda m, i, w: torch.cat([F.embedding_bag(i, m.a.weight, mode="sum", per_sample_weights=w), m.b(i[:, 1])], 1),
        IDS, WEIGHTS, fired=2,
    ),
    "sequence": case(lambda m, i: torch.cat([m.a(i).flatten(1), m.b(i).flatten(1)], 1), fired=2),
}  # fmt: skip


@pytest.mark.parametrize("name", FIRES)
@pytest.mark.parametrize("bits", [16, 8, 4, 2, 1])
def test_fires(name: str, bits: int) -> None:
    program = fused(FIRES[name])
    held = {id(t): t.shape[1] for found, _ in lookups(program) for t in found}
    grows = sum(-(-dim * bits // 8) + 4 >= 4 * dim for dim in held.values()) if bits != 16 else 0
    assert grows == 0
    after = check(QuantizeTables(bits=bits), program, FIRES[name].fired)
    for found, features in lookups(after):
        assert all(t.dtype is (torch.bfloat16 if bits == 16 else torch.uint8) for t in found)
        assert all(f.bits == (32 if bits == 16 else bits) for f in features)
    verify_numeric(rounded(program, bits), after, Exactness.REASSOC)


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_refined_tables_are_what_the_lookup_reads(bits: int) -> None:
    program = fused(FIRES["concatenation"])
    after = check(QuantizeTables(bits=bits, refine=True), program, 3)
    verify_numeric(rounded(program, bits, refine=True), after, Exactness.REASSOC)


def test_float16() -> None:
    program = fused(FIRES["concatenation"])
    after = check(QuantizeTables(bits=16, format="fp16"), program, 3)
    ((found, _),) = lookups(after)
    assert all(t.dtype is torch.float16 for t in found)
    assert after.state_bytes() == program.state_bytes() // 2


def test_the_state_shrinks() -> None:
    program = fused(FIRES["one table"])
    after = check(QuantizeTables(bits=4), program, 1)
    assert list(after.state()) == ["a_weight_4bit"]
    assert after.state_bytes() == 9 * (16 // 2 + 4)


def with_table(**replaced: torch.Tensor) -> Case:
    def model() -> nn.Module:
        made = tables()
        for name, table in replaced.items():
            made[name] = nn.Embedding.from_pretrained(table)
        return Function(lambda m, i: torch.cat([m.a(i[:, 0]), m.b(i[:, 1])], 1), **made)

    return Case(model, (IDS,))


def bad_table(value: float) -> torch.Tensor:
    table = torch.randn(9, 16)
    table[4, 3] = value
    return table


LEAVES_ALONE: dict[str, tuple[Case, QuantizeTables, str]] = {
    "tied output weights": (
        case(lambda m, i: torch.cat([m.a(i[:, 0]), m.a(i[:, 1])], 1) @ torch.cat([m.a.weight, m.a.weight], 1).T),
        QuantizeTables(),
        "reads the table as well",
    ),
    "computed table": (
        case(lambda m, i: F.embedding(i[:, 0], m.a.weight * i.sum())), QuantizeTables(), "",
    ),
    "few rows": (case(lambda m, i: torch.cat([m.a(i[:, 0]), m.b(i[:, 1])], 1)), QuantizeTables(min_rows=10), "only 9 row(s)"),
    "rows that would grow": (
        case(lambda m, i: torch.cat([m.one(i[:, k]) for k in range(3)], 1)), QuantizeTables(), "5 bytes instead of 4",
    ),
    "a NaN": (with_table(a=bad_table(float("nan")), b=bad_table(float("nan"))), QuantizeTables(), "NaN"),
    "infinities": (with_table(a=bad_table(float("inf")), b=bad_table(-float("inf"))), QuantizeTables(bits=16), "NaN"),
    "beyond half precision": (with_table(a=bad_table(1e6), b=bad_table(-1e6)), QuantizeTables(bits=4), "half precision"),
    "beyond float16": (
        with_table(a=bad_table(1e6), b=bad_table(1e6)), QuantizeTables(bits=16, format="fp16"), "float16",
    ),
    "values too close": (
        with_table(a=torch.rand(9, 16) * 1e-9, b=torch.rand(9, 16) * 1e-9), QuantizeTables(), "too close",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LEAVES_ALONE)
def test_leaves_alone(name: str) -> None:
    given_case, item, reason = LEAVES_ALONE[name]
    program = fused(given_case)
    result = run(item, program)
    assert result.records[0].fired == 0
    assert same_graph(program, result.program) is None
    if reason:
        assert any(reason in miss.reason for miss in result.records[0].misses), result.records[0].misses


def test_one_bad_table_keeps_no_other_from_being_packed() -> None:
    result = run("quantize-tables", fused(with_table(a=bad_table(float("nan")))))
    assert result.records[0].fired == 1
    ((found, features),) = lookups(result.program)
    assert [t.dtype for t in found] == [torch.float32, torch.uint8]
    assert [f.bits for f in features] == [32, 8]


@pytest.mark.parametrize(
    "body",
    [
        lambda m, i: m.a(i[:, 0]),
        lambda m, i: F.embedding_bag(i, m.a.weight, mode="sum"),
        lambda m, i: torch.index_select(m.a.weight, 0, i[:, 0]),
    ],
)
def test_a_lookup_that_was_not_fused_is_named(body: Callable[..., Any]) -> None:
    program = Pipeline("canonicalize").run(capture(Function(body, **tables()), (IDS,))).program
    (record,) = run("quantize-tables", program).records
    assert record.fired == 0
    assert any("run fuse-lookups before" in miss.reason for miss in record.misses)


def two_names(multiplied: bool) -> Program:
    """A program in which two reads of state with different names return the same tensor."""
    table = torch.randn(9, 16)
    b = GraphBuilder({"ids": (("batch", 2), torch.int64)})
    first, second = b.state("items", table), b.state("again", table)
    out = b.call(grouped_lookup, [first], [b.inputs["ids"]], [], [], [], encode([Feature(0, 0, 16, 0)]), [], 16)
    if multiplied:
        return b.build(b.call(torch.ops.aten.linear.default, out, second))
    other = Feature(0, 0, 16, 0, column=1)
    return b.build(out, b.call(grouped_lookup, [second], [b.inputs["ids"]], [], [], [], encode([other]), [], 16))


def test_a_table_multiplied_with_under_another_name_is_left_alone() -> None:
    result = run("quantize-tables", two_names(multiplied=True))
    assert result.records[0].fired == 0
    assert any("reads the table as well" in miss.reason for miss in result.records[0].misses)


def test_a_table_of_two_names_is_packed_once() -> None:
    program = two_names(multiplied=False)
    after = check(QuantizeTables(), program, 1)
    (first,), (second,) = (found for found, _ in lookups(after))
    assert first is second
    verify_numeric(rounded(program, 8), after, Exactness.REASSOC)


@pytest.mark.parametrize(("multiplied", "fired"), [(True, 0), (False, 1)])
def test_tied_modules(multiplied: bool, fired: int) -> None:
    def body(m: Any, i: torch.Tensor) -> torch.Tensor:
        rows = torch.cat([m.items(i[:, 0]), m.again(i[:, 1])], 1)
        return F.linear(rows[:, :16], m.again.weight) if multiplied else rows

    def model() -> nn.Module:
        made = {"items": nn.Embedding(9, 16), "again": nn.Embedding(9, 16)}
        made["again"].weight = made["items"].weight
        return Function(body, **made)

    assert run("quantize-tables", fused(Case(model, (IDS,)))).records[0].fired == fired


def test_the_gate_holds_tables_back_one_by_one() -> None:
    program = fused(FIRES["concatenation"])

    def is_bad(candidate: Program) -> bool:
        return any(f.bits == 8 and f.dim == 5 for _, features in lookups(candidate) for f in features)

    culprit = Pipeline("quantize-tables").bisect(program, is_bad)
    assert "quantize-tables" in str(culprit)


@pytest.mark.parametrize("options", [{"bits": 3}, {"bits": 32}, {"format": "fp8"}])
def test_options_that_are_none(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"does not exist|cannot have|is not a 16-bit format"):
        QuantizeTables(**options)


def test_options_survive_as_text() -> None:
    text = str(Pipeline([QuantizeTables(bits=4, refine=True, min_rows=100)]))
    assert Pipeline(text).passes == (QuantizeTables(bits=4, refine=True, min_rows=100),)


@st.composite
def lookup_programs(draw: st.DrawFn) -> Program:
    """Lookups of drawn tables, dimensions and bags."""
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    columns = 6
    b = GraphBuilder({"ids": (("batch", columns), torch.int64)})
    count = draw(st.integers(1, 3))
    dims = [draw(st.integers(2, 20)) for _ in range(count)]
    made = [b.state(f"t{i}", torch.randn(8, dim, generator=rng)) for i, dim in enumerate(dims)]
    features: list[Feature] = []
    output = 0
    for _ in range(draw(st.integers(1, 5))):
        table, length = draw(st.integers(0, count - 1)), draw(st.integers(1, 3))
        feature = Feature(
            table, 0, dims[table], output, column=draw(st.integers(0, columns - length)), length=length,
            pooling=draw(st.integers(0, 2)), padding=draw(st.sampled_from([-1, 0, 3])),
        )  # fmt: skip
        features.append(feature)
        output += feature.columns
    node = b.call(grouped_lookup, made, [b.inputs["ids"]], [], [], [], encode(features), [], output)
    return b.build(node)


@settings(max_examples=20)
@given(program=lookup_programs(), bits=st.sampled_from([16, 8, 4, 2, 1]), refine=st.booleans())
def test_any_lookup_reads_what_its_tables_stand_for(program: Program, bits: int, refine: bool) -> None:
    result: PipelineResult = run(QuantizeTables(bits=bits, refine=refine), program)
    want = rounded(program, bits, refine)
    for found, features in lookups(result.program):
        for feature in features:  # a table whose rows would grow stays unchanged
            if found[feature.table].dtype is torch.float32:
                assert -(-feature.dim * bits // 8) + 4 >= 4 * feature.dim
    if all(t.dtype is not torch.float32 for found, _ in lookups(result.program) for t in found):
        verify_numeric(want, result.program, Exactness.REASSOC)
    assert operators(result.program) == operators(program)
    assert result.program.signature == program.signature
