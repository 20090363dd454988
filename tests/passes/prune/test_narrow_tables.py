"""narrow-tables: a program computes what it would with the rows of its tables put into the main directions of all rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pass_cases import Case, Function, program_of
from torch import Tensor, nn
from torch.nn import functional as F

import recfx
from recfx.capture import capture
from recfx.ir import Program, verify_meta
from recfx.passes import NarrowTables
from recfx.passes.prune.narrow_tables import main_directions
from recfx.pipeline import Pipeline, PipelineResult
from recfx.zoo import DLRM

ROWS, DIM = 60, 8
IDS = torch.randint(0, ROWS, (12, 3), generator=torch.Generator().manual_seed(0))


def narrow(program: Program, data: Any = None, **options: Any) -> PipelineResult:
    item = NarrowTables(**{"min_bytes": 0, "round_to": 1, **options})
    return Pipeline([item]).run(program, resources={} if data is None else {"traffic": list(data)})


def projected(table: Tensor, width: int, counts: Tensor | None = None) -> Tensor:
    """The table with its rows in the main directions of all rows."""
    weighted = table.double() * (1 if counts is None else counts.double().sqrt()[:, None])
    right = torch.linalg.svd(weighted, full_matrices=False).Vh[:width]
    return (table.double() @ right.T @ right).float()


def embedding(padding: int | None = None) -> nn.Embedding:
    torch.manual_seed(0)
    return nn.Embedding(ROWS, DIM, padding_idx=padding)


def bag(mode: str, **options: Any) -> nn.EmbeddingBag:
    torch.manual_seed(0)
    return nn.EmbeddingBag(ROWS, DIM, mode=mode, **options)


def tied() -> nn.Module:
    first, second = embedding(), embedding()
    second.weight = first.weight
    return Function(lambda m, i: m.e(i[:, 0]) - m.b(i[:, 1]), e=first, b=second)


FIRES: dict[str, Callable[[], nn.Module]] = {
    "rows": lambda: Function(lambda m, i: m.e(i).sin(), e=embedding()),
    "rows that are returned": lambda: Function(lambda m, i: m.e(i), e=embedding()),
    "rows with padding": lambda: Function(lambda m, i: m.e(i).sin(), e=embedding(3)),
    "sums of bags": lambda: Function(lambda m, i: m.e(i).sin(), e=bag("sum")),
    "means of bags with padding": lambda: Function(lambda m, i: m.e(i).sin(), e=bag("mean", padding_idx=3)),
    "tied tables": tied,
    "a dot interaction": lambda: Function(lambda m, i: torch.bmm(m.e(i), m.e(i).transpose(1, 2)), e=embedding()),
}

LEAVES_ALONE: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], str]] = {
    "little to save": (
        lambda: Function(lambda m, i: m.e(i), e=embedding()),
        {"min_bytes": 833},
        "would save 832 bytes",
    ),
    "as wide as before": (lambda: Function(lambda m, i: m.e(i), e=embedding()), {"energy": 1.0}, "a width of 8 of 8"),
    "one column": (lambda: Function(lambda m, i: m.e(i), e=nn.Embedding(ROWS, 1)), {}, "a width of 1 of 1"),
    "named": (lambda: Function(lambda m, i: m.e(i), e=embedding()), {"keep": ("e.weight",)}, "keep names it"),
    "another one named": (
        lambda: Function(lambda m, i: m.e(i) + m.b(i), e=embedding(), b=nn.Embedding(ROWS, DIM)),
        {"only": ("b.weight",)},
        "only does not name it",
    ),
    "the largest of a bag": (
        lambda: Function(lambda m, i: m.e(i).sin(), e=bag("max")),
        {},
        "no projection follows",
    ),
    "the largest of a bag beside a sum": (
        lambda: Function(
            lambda m, i: m.e(i).sin() + F.embedding_bag(i, m.e.weight, mode="sum").sin(), e=bag("max", padding_idx=3)
        ),
        {},
        "no projection follows",
    ),
    "a bag that is returned": (lambda: Function(lambda m, i: m.e(i), e=bag("sum")), {}, "its rows are returned"),
    "several results of a bag": (
        lambda: Function(
            lambda m, i: [
                found.sin()
                for found in torch.embedding_bag(m.e.weight, i.flatten(), 3 * torch.arange(len(i)), False, 1)[:3:2]
            ],
            e=bag("mean"),
        ),
        {},
        "not its only result",
    ),
    "weights of a layer too": (
        lambda: Function(lambda m, i: m.e(i) @ m.e.weight.T, e=embedding()),
        {},
        "reads the table as well",
    ),
    "computed": (
        lambda: Function(lambda m, i: F.embedding(i, m.e.weight * 2), e=embedding()),
        {},
        "the table is computed",
    ),
    "zeros": (
        lambda: Function(lambda m, i: m.e(i), e=nn.Embedding.from_pretrained(torch.zeros(ROWS, DIM))),
        {},
        "all of its rows are zero",
    ),
    "infinities": (
        lambda: Function(lambda m, i: m.e(i), e=nn.Embedding.from_pretrained(torch.full((ROWS, DIM), torch.inf))),
        {},
        "NaN or infinities",
    ),
}


@pytest.mark.parametrize("name", FIRES)
@pytest.mark.parametrize("rows", [1, 5])
def test_fires(name: str, rows: int) -> None:
    program = program_of(Case(FIRES[name], (IDS,)))
    found = narrow(program, ratio=0.5)
    assert found.records[0].fired == 1
    assert sorted(tuple(t.shape) for t in found.program.state().values()) == [(DIM, DIM // 2), (ROWS, DIM // 2)]
    verify_meta(found.program)
    model = FIRES[name]()
    ids = IDS[:rows]
    with torch.no_grad():
        model.e.weight.copy_(projected(model.e.weight, DIM // 2))  # type: ignore[operator, union-attr]
        torch.testing.assert_close(found.program(ids), model(ids), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", LEAVES_ALONE)
def test_leaves_alone(name: str) -> None:
    model, options, reason = LEAVES_ALONE[name]
    found = narrow(Pipeline("canonicalize").run(program_of(Case(model, (IDS,)))).program, **options)
    if name != "another one named":
        assert not found.records[0].fired
    misses = [miss.reason for miss in found.records[0].misses]
    assert any(reason in miss for miss in misses), misses


def test_rows_that_are_read_often_count_more() -> None:
    model = Function(lambda m, i: m.e(i).sin(), e=embedding())
    seen = torch.cat([torch.arange(10).repeat(30), torch.arange(ROWS)])
    found = narrow(capture(model, (IDS,)), [(seen.reshape(-1, 3),)], importance="traffic", ratio=0.5)
    expected = projected(model.e.weight.detach(), DIM // 2, torch.bincount(seen, minlength=ROWS))
    torch.testing.assert_close(found.program(IDS), expected[IDS].sin(), rtol=1e-4, atol=1e-5)


def test_energy_gives_the_least_width() -> None:
    model = Function(lambda m, i: m.e(i).sin(), e=embedding())
    with torch.no_grad():
        model.e.weight.copy_(torch.randn(ROWS, 3) @ torch.randn(3, DIM))
    program = capture(model, (IDS,))
    for width, step in ((3, 1), (4, 4)):
        found = narrow(program, energy=1 - 1e-9, round_to=step).program
        assert tuple(found.state()["e.weight"].shape) == (ROWS, width)
        torch.testing.assert_close(found(IDS), program(IDS), rtol=1e-4, atol=1e-5)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32), st.integers(1, 30), st.integers(1, 6), st.booleans())
def test_main_directions_keep_the_weighted_rows(seed: int, rows: int, dim: int, weighted: bool) -> None:
    rng = torch.Generator().manual_seed(seed)
    table = torch.randn(rows, dim, generator=rng)
    counts = torch.randint(0, 5, (rows,), generator=rng) if weighted else None
    energies, directions = main_directions(table, counts)
    torch.testing.assert_close(directions.T @ directions, torch.eye(dim, dtype=torch.float64), rtol=0, atol=1e-9)
    weight = torch.ones(rows) if counts is None else counts
    own = (weight[:, None] * (table.double() @ directions).square()).sum(0)
    torch.testing.assert_close(own, energies, rtol=1e-6, atol=1e-9)
    assert bool((energies.diff() <= 1e-9).all())


def test_a_whole_model_keeps_its_narrow_tables_in_the_default_pipeline() -> None:
    model = DLRM.small(tables=(50_000, 200)).eval()
    inputs = model.example_inputs(16)
    fast = recfx.optimize(
        model, example_inputs=inputs, extra_passes="narrow-tables{ratio=0.5, round_to=2}", measure=False
    )
    (wide,) = [t for t in model.parameters() if len(t) == 50_000]
    before, after = fast.report.state_bytes
    assert before - after > 0.45 * wide.numel() * 4
    program = Pipeline("canonicalize,narrow-tables{ratio=0.5, round_to=2}").run(capture(model, inputs)).program
    torch.testing.assert_close(fast(*inputs), program(*inputs), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        *(({"ratio": 1.0}, "ratio=1.0"), ({"ratio": 0.0}, "ratio=0.0"), ({"energy": 1.1}, "energy=1.1")),
        *(({"energy": 0.0}, "energy=0.0"), ({"round_to": 0}, "round_to")),
        *(({"keep": ("absent",)}, "absent"), ({"importance": "traffic"}, "traffic")),
    ],
)
def test_options_are_checked(options: dict[str, Any], says: str) -> None:
    with pytest.raises(recfx.RecfxError, match=says) as caught:
        narrow(program_of(Case(FIRES["rows"], (IDS,))), **options)
    assert caught.value.hint
