"""Options of tables: their bytes and their harm against the tables that passes make."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from budget_kit import Clicks, inputs
from native_kit import needs_kernels
from torch import Tensor, nn

from recfx.budget.ranking import Ranking
from recfx.budget.sensitivity import TableResponses
from recfx.budget.steps import ALWAYS, BITS, FORMS, LEAST, REMOVED, Group, Plan, rows_of
from recfx.budget.table_units import TableGroups, TableUnits
from recfx.capture import capture
from recfx.formats import decode_rows, encode_rows
from recfx.ir.verify import Level
from recfx.passes import FUSED, default_stages
from recfx.pipeline import Pipeline

PLAN = Plan(default_stages(requests=False, kernels=FUSED), ())
ROWS = 400


class Shared(nn.Module):
    """A wide and a narrow table that the same ids read, as in wide and deep models."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.deep, self.wide = nn.Embedding(ROWS, 16), nn.Embedding(ROWS, 1)
        self.last = nn.Linear(16, 1)
        self.eval()

    def forward(self, ids: Tensor) -> Tensor:
        return (self.last(torch.tanh(self.deep(ids))) + self.wide(ids)).squeeze(1)


def ids(seed: int) -> tuple[Tensor]:
    skewed = torch.rand(300, generator=torch.Generator().manual_seed(seed)) ** 3
    return ((skewed * ROWS).long(),)


DATA = [ids(seed) for seed in range(3)]


def ranked(model: nn.Module, data: list[Any]) -> Ranking:
    found = Ranking(
        capture(model, data[0]), PLAN, data, {"calibration": data, "traffic": data}, quantises=True, prunes=True
    )
    found.steps()
    return found


@needs_kernels
def test_bytes_of_all_options_are_those_of_the_compiled_program() -> None:
    model = Shared()
    found = ranked(model, DATA)
    everything = sum(p.numel() * 4 for p in model.parameters())
    (unit,) = (unit for unit in found.units if any(g.name == "deep.weight" for o in unit for g, _ in o.forms))
    kinds = {group.kind for option in unit for group, _ in option.forms}
    assert kinds == {"table", "rows"}
    assert {group.name for option in unit for group, _ in option.forms} >= {"deep.weight", "wide.weight"}
    captured = capture(model, DATA[0])
    for option in unit[1:]:
        pipeline = PLAN.pipeline(found.groups, dict(option.forms))
        after = pipeline.run(
            captured, verify=Level.OFF, resources={"calibration": DATA, "traffic": DATA}, reproducer=False
        )
        left = after.program.state_bytes() / everything
        if REMOVED in dict(option.forms).values():  # constants go into biases, which saves more
            assert left <= 1 - option.bytes, option.forms
        else:
            assert left == pytest.approx(1 - option.bytes), option.forms


def test_options_save_more_the_more_they_harm() -> None:
    found = ranked(Shared(), DATA)
    for unit in found.units:
        for one, other in itertools.pairwise(unit):
            if "table" in {group.kind for option in unit for group, _ in option.forms}:
                assert other.harm >= one.harm
                assert other.bytes > one.bytes


@pytest.mark.parametrize("form", FORMS["table"])
def test_the_harm_of_fewer_bits_is_the_response_to_their_error(form: str) -> None:
    model, data = Clicks(), [inputs(200, seed) for seed in range(2)]
    program = Pipeline("canonicalize").run(capture(model, data[0])).program
    responses = TableResponses(program, [list(one) for one in data])
    table = model.tables[0].weight.detach()
    group = Group("tables.0.weight", "table", FORMS["table"])
    units = TableUnits([TableGroups("tables.0.weight", table, group)], responses, 4 * table.numel())
    steps = [step for step in units.steps() if FORMS["table"].index(step.form) <= FORMS["table"].index(form)]
    bits = BITS[form]
    error = decode_rows(encode_rows(table, bits, refine=bits in (2, 4)), bits, 16) - table
    exact = float(responses.response("tables.0.weight", error).square().mean())
    assert sum(step.harm for step in steps) == pytest.approx(exact, rel=1e-6)


def test_forms_that_cannot_be_stored_or_save_nothing_are_left_out() -> None:
    model, data = Clicks(), [inputs(200)]
    program = Pipeline("canonicalize").run(capture(model, data[0])).program
    responses = TableResponses(program, [list(data[0])])
    broken = model.tables[0].weight.detach().clone()
    broken[3, 2] = 1e9  # beyond half precision
    widths = Group("tables.0.weight", "table", FORMS["table"])
    rows = Group(rows_of("tables.0.weight"), "rows", FORMS["rows"])
    counts = torch.full((50,), 20)
    counts[:20] = 3
    units = TableUnits([TableGroups("tables.0.weight", broken, widths, rows, counts)], responses, 4 * broken.numel())
    assert [(group.kind, group.forms) for group in units.groups] == [("rows", (FORMS["rows"][1], REMOVED))]
    assert LEAST[FORMS["rows"][1]] == 4
    (unit,) = units.units()
    assert {dict(option.forms).get(units.groups[0]) for option in unit[1:]} <= {FORMS["rows"][1], REMOVED}
    assert all(
        "tables.0.weight" not in group.name or group.kind == "rows" for option in unit for group, _ in option.forms
    )


def test_one_row_for_all_ids_takes_no_list_of_places_and_no_padding_row() -> None:
    table = torch.randn(50, 16)
    counts, whole = torch.arange(50), Group(rows_of("t"), "rows", (REMOVED,))
    own = TableGroups("t", table, None, whole, counts)
    assert own.bytes(32, ALWAYS) == 64
    change = own.change(32, ALWAYS)
    assert change is not None
    mean = (counts[:, None] * table.double()).sum(0) / counts.sum()
    torch.testing.assert_close(table + change, mean.float().expand(50, 16))
    assert TableGroups("t", table, None, whole, counts, frozenset({0})).cold(ALWAYS) is None
    with torch.no_grad():
        model, data = Clicks(), [inputs(200)]
    program = Pipeline("canonicalize").run(capture(model, data[0])).program
    responses = TableResponses(program, [list(data[0])])
    named = TableGroups(
        "tables.0.weight", model.tables[0].weight.detach(), None, Group("r", "rows", (REMOVED,)), counts
    )
    (step,) = TableUnits([named], responses, 50 * 64).steps()
    assert step.bytes == pytest.approx(49 / 50)
