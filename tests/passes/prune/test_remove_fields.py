"""remove-fields: a program computes what it would with the mean of a field's embeddings in place of each of them."""

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
from recfx.passes import RemoveFields
from recfx.passes.prune.field_results import result_of_lookup
from recfx.passes.prune.remove_fields import mean_results
from recfx.pipeline import Pipeline, PipelineResult

ROWS = 20
IDS = torch.randint(0, ROWS, (12, 3), generator=torch.Generator().manual_seed(0))


class Fields(nn.Module):
    """Three fields, of which the first decides, the second counts little and the third does nothing: ids [B, 3] -> [B]."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tables = nn.ModuleList(nn.Embedding(ROWS, 4) for _ in range(3))
        self.wide = nn.Embedding(ROWS, 1)
        self.first, self.last = nn.Linear(12, 8), nn.Linear(8, 1)
        with torch.no_grad():
            self.first.weight[:, 4:8] *= 0.05
            self.first.weight[:, 8:] = 0.0
            self.wide.weight *= 0.01
        self.eval()

    def forward(self, ids: Tensor) -> Tensor:
        rows = [table(ids[:, f]) for f, table in enumerate(self.tables)]
        return (self.last(torch.relu(self.first(torch.cat(rows, 1)))) + self.wide(ids[:, 1])).squeeze(1)


def remove(program: Program, data: Any = ((IDS,),), **options: Any) -> PipelineResult:
    return Pipeline([RemoveFields(**options)]).run(program, resources={"calibration": list(data)})


def fields() -> Program:
    return Pipeline("canonicalize,merge-duplicates").run(capture(Fields(), (IDS,))).program


def tables_of(program: Program) -> list[str]:
    return sorted(name for name in program.state() if "tables" in name or "wide" in name)


def with_means(*places: int) -> Tensor:
    """The answers of the model with the mean row, over the calibration rows, of some fields."""
    model = Fields()
    with torch.no_grad():
        for place in places:
            for table in (model.tables[place], *([model.wide] if place == 1 else [])):
                table.weight.copy_(table.weight[IDS[:, place]].mean(0).expand_as(table.weight))
        return model(IDS)


def test_the_fields_that_matter_least_are_removed_together() -> None:
    first = remove(fields(), most_harm=0.0)
    assert [r.fired for r in first.records] == [1]
    assert tables_of(first.program) == ["tables.0.weight", "tables.1.weight", "tables_2_weight_mean", "wide.weight"]
    assert "1 field(s) have a constant embedding" in first.program.notices[-1]
    torch.testing.assert_close(first.program(IDS), with_means(2))
    both = remove(fields(), most_harm=0.2)
    names = ["tables.0.weight", "tables_1_weight_mean", "tables_2_weight_mean", "wide_weight_mean"]
    assert tables_of(both.program) == names
    torch.testing.assert_close(both.program(IDS), with_means(1, 2))
    assert [m.reason[:17] for m in both.records[0].misses] == ["its importance is"]
    verify_meta(both.program)


def test_named_tables_are_removed_whatever_their_importance() -> None:
    found = remove(fields(), only=("tables.0.weight", "wide.weight"))
    assert tables_of(found.program) == [
        "tables.1.weight",
        "tables.2.weight",
        "tables_0_weight_mean",
        "wide_weight_mean",
    ]
    assert remove(fields(), most_harm=1e9, keep=("tables.0.weight",)).records[0].fired == 2


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_any_id_and_any_batch_has_the_mean(rows: int) -> None:
    program = remove(fields(), only=("tables.1.weight",)).program
    ids = torch.randint(0, ROWS, (rows, 3))
    other = ids.clone()
    other[:, 1] = (ids[:, 1] + 3) % ROWS
    model = Fields()
    with torch.no_grad():
        model.tables[1].weight.copy_(model.tables[1].weight[IDS[:, 1]].mean(0).expand_as(model.tables[1].weight))
        torch.testing.assert_close(program(ids), model(ids))
        torch.testing.assert_close(program(other), model(other))


def test_the_pass_is_idempotent_and_constants_go_into_biases() -> None:
    once = remove(fields(), only=("tables.1.weight",)).program
    again = Pipeline("remove-fields{most_harm=0}").run(once, resources={"calibration": [(IDS,)]})
    assert tables_of(again.program).count("tables_1_weight_mean") == 1
    smaller = Pipeline("remove-dead-channels").run(again.program).program
    assert tuple(smaller.state()["first.weight"].shape) == (8, 4 + 1 + 1)  # an axis keeps one channel
    torch.testing.assert_close(smaller(IDS), once(IDS))


def bag(mode: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: Function(lambda m, i: m.e(i) * 2, e=nn.EmbeddingBag(ROWS, 4, mode=mode, **options))


FIRES: dict[str, Callable[[], nn.Module]] = {
    "ids [B, 3]": lambda: Function(lambda m, i: m.e(i).sum(1), e=nn.Embedding(ROWS, 4)),
    "ids [B, 1]": lambda: Function(lambda m, i: m.e(i[:, :1]).squeeze(1) + 1, e=nn.Embedding(ROWS, 4)),
    "bags": bag("mean"),
    "bags with padding": bag("sum", padding_idx=3),
    "a table that another operator reads": lambda: Function(
        lambda m, i: m.e(i[:, 0]) @ m.e.weight.T, e=nn.Embedding(ROWS, 4)
    ),
}

LEAVES_ALONE: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], str]] = {
    "it matters": (lambda: Function(lambda m, i: m.e(i) * 2, e=nn.Embedding(ROWS, 4)), {}, "its importance is"),
    "named": (
        lambda: Function(lambda m, i: m.e(i) * 2, e=nn.Embedding(ROWS, 4)),
        {"keep": ("e.weight",)},
        "keep names it",
    ),
    "returned": (lambda: Function(lambda m, i: m.e(i), e=nn.Embedding(ROWS, 4)), {}, "its rows are returned"),
    "computed": (
        lambda: Function(lambda m, i: F.embedding(i, m.e.weight * 2) + 1, e=nn.Embedding(ROWS, 4)),
        {},
        "the table is computed",
    ),
    "rows of a free number": (
        lambda: Function(lambda m, i: m.e(i.flatten().unsqueeze(0)) * 2, e=nn.Embedding(ROWS, 4)),
        {},
        "other rows than one of fixed size",
    ),
    "no finite mean": (
        lambda: Function(lambda m, i: m.e(i) * 0, e=nn.Embedding.from_pretrained(torch.full((ROWS, 4), torch.inf))),
        {"only": ("e.weight",)},
        "have no mean",
    ),
}


@pytest.mark.parametrize("name", FIRES)
def test_fires(name: str) -> None:
    program = Pipeline("canonicalize").run(program_of(Case(FIRES[name], (IDS,)))).program
    (lookup,) = [n for n in program.graph.nodes if "embedding" in str(n.target)]
    result = result_of_lookup(lookup)
    assert not isinstance(result, str)
    mean = mean_results(program, [result], [[IDS]])[result]
    removed = remove(program, only=("e.weight",))
    assert removed.records[0].fired == 1
    (read,) = [n for n in removed.program.graph.find_nodes(op="get_attr") if "mean" in str(n.target)]
    torch.testing.assert_close(removed.program.state()[str(read.target)].double(), mean, rtol=1e-6, atol=1e-7)
    out = removed.program(IDS)
    torch.testing.assert_close(out, out[:1].expand_as(out))  # no id counts any more


@pytest.mark.parametrize("name", LEAVES_ALONE)
def test_leaves_alone(name: str) -> None:
    model, options, reason = LEAVES_ALONE[name]
    found = remove(program_of(Case(model, (IDS,))), **options)
    assert not found.records[0].fired
    assert any(reason in miss.reason for miss in found.records[0].misses)


@settings(deadline=None, max_examples=15)
@given(st.data())
def test_any_tables_and_ids(data: st.DataObject) -> None:
    rng = torch.Generator().manual_seed(data.draw(st.integers(0, 2**32)))
    dims = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    rows, shared = data.draw(st.integers(2, 9)), data.draw(st.booleans())
    model = nn.ModuleList(nn.Embedding(rows, dim) for dim in dims).eval()
    with torch.no_grad():
        for table in model:
            table.weight.copy_(torch.randn(table.weight.shape, generator=rng))  # type: ignore[union-attr, operator]

    def forward(m: Any, ids: Tensor) -> Tensor:
        return torch.cat([t(ids[:, 0 if shared else f]) for f, t in enumerate(m.tables)], 1).tanh()

    program = (
        Pipeline("canonicalize,merge-duplicates")
        .run(capture(Function(forward, tables=model), (torch.randint(0, rows, (3, 3), generator=rng),)))
        .program
    )
    sizes = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    batches = [(torch.randint(0, rows, (size, 3), generator=rng),) for size in sizes]
    places = sorted(data.draw(st.sets(st.integers(0, len(dims) - 1), min_size=1)))
    found = remove(program, batches, only=tuple(f"tables.{place}.weight" for place in places)).program
    seen = torch.cat([ids for (ids,) in batches])
    with torch.no_grad():
        for place in places:
            table = model[place].weight
            table.copy_(table[seen[:, 0 if shared else place]].double().mean(0).float().expand_as(table))
        ids = torch.randint(0, rows, (4, 3), generator=rng)
        torch.testing.assert_close(found(ids), forward(Function(forward, tables=model), ids), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"most_harm": -1e-3}, "most_harm=-0.001"),
        ({"most_harm": float("nan")}, "most_harm=nan"),
        ({"only": ("absent",)}, "absent"),
    ],
)
def test_options_are_checked(options: dict[str, Any], says: str) -> None:
    with pytest.raises(recfx.RecfxError, match=says) as caught:
        remove(fields(), **options)
    assert caught.value.hint


def test_data_is_asked_for() -> None:
    with pytest.raises(recfx.PipelineError, match="calibration"):
        Pipeline("remove-fields").run(fields())
