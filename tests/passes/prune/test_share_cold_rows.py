"""share-cold-rows: a program computes what it would with the mean of the cold rows in place of each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from native_kit import lower
from pass_cases import Case, Function, program_of, small_model
from torch import Tensor, nn
from torch.nn import functional as F

import recfx
from recfx.capture import capture
from recfx.ir import Program, verify_meta
from recfx.passes import ShareColdRows
from recfx.passes.prune.row_counts import Traffic, row_counts
from recfx.pipeline import Pipeline, PipelineResult
from recfx.runtime.outputs import own_outputs
from recfx.zoo import MODELS

ROWS, HOT = 80, (0, 3, 4, 70, 79)
IDS = (torch.tensor(HOT).repeat(2),)
PAIRS = (torch.tensor(HOT).repeat(4).reshape(10, 2),)


def share(program: Program, data: Any = (IDS,), **options: Any) -> PipelineResult:
    """The pass on a program; rows that the data never reads are cold unless options say otherwise."""
    return Pipeline([ShareColdRows(**{"least": 1, **options})]).run(program, resources={"traffic": list(data)})


def averaged(table: Tensor, counts: Tensor, least: int, kept: tuple[int, ...] = ()) -> Tensor:
    """The table with the mean of its cold rows in place of each of them."""
    cold = counts < least
    cold[list(kept)] = False
    weights = counts[cold].double() if counts[cold].any() else torch.ones(int(cold.sum()), dtype=torch.float64)
    made = table.detach().clone()
    made[cold] = ((weights[:, None] * table.detach()[cold].double()).sum(0) / weights.sum()).to(table.dtype)
    return made


def bag(mode: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: Function(lambda m, i: m.e(i), e=nn.EmbeddingBag(ROWS, 16, mode=mode, **options))


def tied() -> nn.Module:
    first = nn.Embedding(ROWS, 16)
    second = nn.Embedding(ROWS, 16)
    second.weight = first.weight
    return Function(lambda m, i: m.a(i[:, 0]) - m.b(i[:, 1]), a=first, b=second)


def sizes(program: Program) -> list[tuple[int, ...]]:
    return sorted(tuple(t.shape) for t in program.state().values())


#: Model, inputs, and the shapes of the state afterwards.
FIRES: dict[str, tuple[Callable[[], nn.Module], tuple[Tensor, ...], list[tuple[int, ...]]]] = {
    "ids [B]": (lambda: nn.Embedding(ROWS, 16).eval(), IDS, [(6, 16), (80,)]),
    "ids [B, 2]": (lambda: nn.Embedding(ROWS, 16).eval(), PAIRS, [(6, 16), (80,)]),
    "padding stays": (lambda: nn.Embedding(ROWS, 16, padding_idx=2).eval(), IDS, [(7, 16), (80,)]),
    "bag sums": (bag("sum"), PAIRS, [(6, 16), (80,)]),
    "bag means with padding": (bag("mean", padding_idx=4), PAIRS, [(6, 16), (80,)]),
    "tied tables": (tied, PAIRS, [(6, 16), (80,)]),
    "a narrow table beside a wide one": (
        lambda: Function(lambda m, i: (m.a(i), m.b(i)), a=nn.Embedding(ROWS, 1), b=nn.Embedding(ROWS, 16)),
        IDS,
        [(6, 1), (6, 16), (80,)],
    ),
    "two tables of other ids": (
        lambda: Function(
            lambda m, i: torch.cat([m.a(i), m.b(i // 2)], 1), a=nn.Embedding(ROWS, 16), b=nn.Embedding(ROWS, 16)
        ),
        IDS,
        [(6, 16), (6, 16), (80,), (80,)],
    ),
}

LEAVES_ALONE: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], str]] = {
    "few rows": (lambda: nn.Embedding(ROWS, 16).eval(), {"min_rows": 81}, "only 80 row"),
    "narrow rows": (lambda: nn.Embedding(ROWS, 1).eval(), {}, "saves no memory"),
    "named": (lambda: nn.Embedding(ROWS, 16).eval(), {"keep": ("weight",)}, "keep names it"),
    "weights of a layer too": (
        lambda: Function(lambda m, i: m.e(i) @ m.e.weight.T, e=nn.Embedding(ROWS, 16)),
        {},
        "reads the table as well",
    ),
    "a computed table": (
        lambda: Function(lambda m, i: F.embedding(i, m.e.weight * 2), e=nn.Embedding(ROWS, 16)),
        {},
        "the table is computed",
    ),
    "a cold row of NaN": (
        lambda: nn.Embedding.from_pretrained(torch.full((ROWS, 16), torch.nan)).eval(),
        {},
        "has no mean",
    ),
}


@pytest.mark.parametrize("name", FIRES)
def test_fires(name: str) -> None:
    model, inputs, expected = FIRES[name]
    program = program_of(Case(model, inputs))
    result = share(program, [inputs])
    assert result.records[0].fired
    assert sizes(result.program) == expected
    verify_meta(result.program)
    for rows in (10, 1):  # all of these ids are kept
        leaves = [inputs[0][:rows]]
        answers = zip(result.program.run(leaves), program.run(leaves), strict=True)
        assert all(torch.equal(found, expected) for found, expected in answers)
    assert share(result.program, [inputs]).records[0].fired == 0


@pytest.mark.parametrize("name", LEAVES_ALONE)
def test_leaves_alone(name: str) -> None:
    model, options, reason = LEAVES_ALONE[name]
    (record,) = share(program_of(Case(model, IDS)), **options).records
    assert record.fired == 0
    assert reason in " | ".join(miss.reason for miss in record.misses)


@settings(deadline=None, max_examples=20)
@given(st.data())
def test_any_table_and_any_counts(data: st.DataObject) -> None:
    rows, dim = data.draw(st.integers(2, 40), label="rows"), data.draw(st.integers(2, 9), label="dim")
    least = data.draw(st.integers(1, 4), label="least")
    padding = data.draw(st.none() | st.integers(0, rows - 1), label="padding")
    torch.manual_seed(data.draw(st.integers(0, 2**16), label="seed"))
    table = nn.Embedding(rows, dim, padding_idx=padding)
    seen = torch.tensor(data.draw(st.lists(st.integers(0, rows - 1), min_size=2, max_size=60), label="seen"))
    program = capture(Function(lambda m, i: m.e(i) * 2, e=table), (torch.tensor([0, rows - 1, 0]),))
    result = share(program, [(seen,)], least=least, min_rows=1)
    counts = torch.bincount(seen, minlength=rows)
    (read,) = program.graph.find_nodes(op="get_attr")
    assert torch.equal(row_counts(program, {read: rows}, [(seen,)])[read], counts)
    ids = torch.arange(rows)
    kept = () if padding is None else (padding,)
    cold = (counts < least).index_fill(0, torch.tensor(kept, dtype=torch.int64), False)
    saves = (int(cold.sum()) - 1) * dim > rows
    assert bool(result.records[0].fired) is saves
    expected = averaged(table.weight, counts, least, kept) if saves else table.weight.detach()
    torch.testing.assert_close(result.program.run([ids])[0], expected[ids] * 2, rtol=1e-6, atol=1e-7)


def test_traffic_is_counted_once() -> None:
    read: list[int] = []

    class Batches:
        def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
            read.append(1)
            return iter([IDS, IDS])

    program, traffic = program_of(Case(FIRES["ids [B]"][0], IDS)), Traffic(Batches())
    (table,) = program.graph.find_nodes(op="get_attr")
    for held in (program, program.clone()):
        (table,) = held.graph.find_nodes(op="get_attr")
        assert torch.equal(row_counts(held, {table: ROWS}, traffic)[table], 2 * torch.bincount(IDS[0], minlength=ROWS))
    assert len(read) == 1
    other = capture(Function(lambda m, i: m.e(i + 1), e=nn.Embedding(ROWS + 1, 4)), IDS)
    (table,) = other.graph.find_nodes(op="get_attr")
    assert row_counts(other, {table: ROWS + 1}, traffic)[table].nonzero().flatten().tolist() == [i + 1 for i in HOT]
    assert len(read) == 2


def test_the_shared_row_is_weighted_by_how_often_each_is_read() -> None:
    table = nn.Embedding(ROWS, 16)
    seen = torch.tensor([*HOT * 3, 1, 2, 2])
    result = share(capture(table.eval(), IDS), [(seen,)], least=3)
    rows = next(t for t in result.program.state().values() if t.ndim == 2)
    torch.testing.assert_close(rows[-1], ((table.weight[1] + 2 * table.weight[2]) / 3).detach())


@pytest.mark.parametrize("name", ["deepfm", "din", "two-tower"])
def test_models_keep_their_answers_on_the_data(name: str) -> None:
    model, inputs, program = small_model(MODELS[name].__name__, 6)
    result = share(Pipeline("canonicalize").run(program).program, [inputs], min_rows=8)
    assert result.records[0].fired
    with torch.no_grad():
        assert torch.equal(result.program.module(*inputs)[0], model(*inputs))


def test_native_kernels_read_the_places_and_refuse_other_ids() -> None:
    model = nn.Sequential(nn.Embedding(ROWS, 16), nn.Linear(16, 2)).eval()
    shared = share(capture(model, IDS)).program
    run = lower(own_outputs(shared))
    ids = torch.randint(0, ROWS, (7,))
    torch.testing.assert_close(run(ids)[0], shared.run([ids])[0], rtol=1e-5, atol=1e-6)
    for wrong in (-1, ROWS):
        with pytest.raises(recfx.RecfxError, match=f"id {wrong} in row 1"):
            run(torch.tensor([3, wrong]))


@pytest.mark.parametrize(
    ("options", "says"), [({"least": 0}, "least=0"), ({"min_rows": 0}, "min_rows=0"), ({"keep": ("absent",)}, "absent")]
)
def test_options_are_checked(options: dict[str, Any], says: str) -> None:
    with pytest.raises(recfx.RecfxError, match=says) as caught:
        share(program_of(Case(FIRES["ids [B]"][0], IDS)), **options)
    assert caught.value.hint


def test_data_is_asked_for() -> None:
    program = program_of(Case(FIRES["ids [B]"][0], IDS))
    with pytest.raises(recfx.PipelineError, match="traffic"):
        Pipeline("share-cold-rows").run(program)
    with pytest.raises(recfx.RecfxError, match="no batch"):
        share(program, [])


@pytest.mark.parametrize("wrong", [-1, ROWS])
def test_ids_outside_the_table_are_refused(wrong: int) -> None:
    program = program_of(Case(FIRES["ids [B]"][0], IDS))
    with pytest.raises(recfx.RecfxError, match=f"has an id outside its table: ids from .* in {ROWS} rows") as caught:
        share(program, [(torch.tensor([3, wrong]),)])
    assert "prepare calibration data as the model's inputs" in str(caught.value.hint)


def test_the_next_step_of_a_refused_option_is_that_of_the_option() -> None:
    with pytest.raises(recfx.PassError) as caught:
        Pipeline("share-cold-rows{keep=[absent]}").run(
            program_of(Case(FIRES["ids [B]"][0], IDS)), resources={"traffic": [IDS]}
        )
    assert "; re-run it alone with" in str(caught.value.hint)
    assert not str(caught.value.hint).startswith("re-run")
