"""Which groups a model has, what their steps save, and how much they harm."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from budget_kit import Clicks, OneTableDecides, OutlierActivations, inputs
from native_kit import needs_kernels
from torch import nn

from recfx.budget.ranking import Ranking
from recfx.budget.steps import FORMS, REMOVED, Plan, Step, setting_of
from recfx.budget.units import Option
from recfx.capture import capture
from recfx.passes import FUSED, default_stages
from recfx.passes.prune import prune_channels
from recfx.pipeline import Pipeline

PLAN = Plan(default_stages(requests=False, kernels=FUSED), ())
DATA = [inputs(200, seed) for seed in range(2)]


def ranking(model: nn.Module, given: Any = DATA, **options: Any) -> Ranking:
    chosen = {"quantises": True, "prunes": True, **options}
    return Ranking(capture(model, given[0]), PLAN, given, {"calibration": given}, **chosen)


def harms(steps: list[Step]) -> dict[str, float]:
    return {f"{step.group.name} {step.form}": step.harm for step in steps}


@needs_kernels
def test_the_groups_of_a_model_and_what_they_save() -> None:
    found = ranking(Clicks())
    steps = found.steps()
    forms = {group.name: (group.kind, group.forms) for group in found.groups}
    tables = {f"tables.{f}.weight": ("table", FORMS["table"]) for f in range(4)}
    pruned = ("channels", ("25 % fewer channels", "50 % fewer channels", "75 % fewer channels"))
    assert forms == {
        **tables,
        "first.weight": ("layer", FORMS["layer"]),
        "second.weight": ("layer", FORMS["layer"]),
        "first.weight:0": pruned,
        "second.weight:0": pruned,
    }
    assert len(steps) == 4 * 4 + 2 * 7 + 2 * 3
    assert all(step.harm >= 0 for step in steps)
    assert len(found.units) == len(found.groups)
    assert all(unit[0] == Option() and all(option.bytes > 0 for option in unit[1:]) for unit in found.units)
    # 50 rows of 16: 64 bytes each in float32, 20 at 8 bits.
    state = sum(p.numel() * 4 for p in Clicks().parameters())
    assert steps[0].saved == pytest.approx(50 * 44 / state)


@needs_kernels
def test_the_pipelines_of_all_steps_together_apply_all_of_them() -> None:
    found = ranking(Clicks(hidden=128))
    steps = found.steps()
    pipeline = PLAN.pipeline(found.groups, setting_of(steps, []))
    captured = capture(Clicks(hidden=128), DATA[0])
    state = Pipeline(str(pipeline)).run(captured, resources={"calibration": DATA}).program.state()
    shapes = sorted(
        (str(tensor.dtype), *tensor.shape) for name, tensor in state.items() if "bit" in name and tensor.ndim > 1
    )
    rows = [("torch.uint8", 50, 6)] * 4  # 16 values of 1 bit, scale and bias
    assert [shape for shape in shapes if "uint8" in shape[0]] == rows
    assert all(min(sizes) <= 32 for _, *sizes in shapes)  # factors of the channels that remain


@needs_kernels
@pytest.mark.parametrize(
    ("make", "fragile"),
    [
        (OneTableDecides, {"tables.0.weight 8 bits", "first.weight 8 bits"}),  # the layer reads the large numbers
        (OutlierActivations, {"second.weight 8 bits"}),
    ],
)
def test_the_harm_of_a_fragile_group_stands_out(make: type[nn.Module], fragile: set[str]) -> None:
    found = {
        name: harm for name, harm in harms(ranking(make(), prunes=False).steps()).items() if name.endswith(" 8 bits")
    }
    assert min(found[name] for name in fragile) > 1.0
    assert max(harm for name, harm in found.items() if name not in fragile) < 0.01


@needs_kernels
def test_tables_with_short_rows_get_16_bits() -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tables = nn.ModuleList(nn.Embedding(50, 1) for _ in range(3))
            self.last = nn.Linear(8, 1)
            self.eval()

        def forward(self, ids: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
            rows = [table(ids[:, f]) for f, table in enumerate(self.tables)]
            return self.last(dense).squeeze(1) + torch.cat(rows, 1).sum(1)

    found = ranking(Wide())
    assert [(step.group.name, step.form) for step in found.steps()] == [
        (f"tables.{f}.weight", "16 bits") for f in range(3)
    ]


@needs_kernels
def test_rows_that_are_rarely_read_share_one() -> None:
    model = Clicks()
    model.tables[0] = nn.Embedding(900, 16)
    model.eval()
    few = [(torch.where(torch.arange(4) == 0, ids * 3, ids), dense) for ids, dense in DATA]
    found = Ranking(
        capture(model, few[0]), PLAN, few, {"calibration": few, "traffic": few}, quantises=True, prunes=True
    )
    own = [step for step in found.steps() if step.group.kind == "rows"]
    assert {step.group.name for step in own if step.form != REMOVED} == {"rows of tables.0.weight"}
    assert {step.group.name for step in own if step.form == REMOVED} == {f"rows of tables.{f}.weight" for f in range(4)}
    steps = [step for step in own if step.group.name == "rows of tables.0.weight"]
    assert steps[0].harm == 0.0 or steps[0].saved > 0
    read = torch.cat([ids[:, 0] for ids, _ in few]).bincount(minlength=900)
    state = sum(p.numel() * 4 for p in model.parameters())
    cold = int((read < 2).sum())
    assert steps[0].saved == pytest.approx(((cold - 1) * 64 - 900 * 4) / state)
    last = [step for step in own if step.form == REMOVED]
    pipeline = PLAN.pipeline(found.groups, setting_of(found.steps(), last))
    after = Pipeline(str(pipeline)).run(capture(model, few[0]), resources={"calibration": few, "traffic": few}).program
    assert any(tensor.dtype is torch.int32 and tensor.shape == (900,) for tensor in after.state().values())


@needs_kernels
def test_a_field_that_does_not_matter_has_one_row_for_all_ids() -> None:
    model = Clicks()
    with torch.no_grad():
        model.first.weight[:, 8:24] = 1e-9
    few = DATA[:2]
    found = Ranking(
        capture(model, few[0]), PLAN, few, {"calibration": few, "traffic": few}, quantises=True, prunes=True
    )
    steps = {step.group.name: step for step in found.steps() if step.form == REMOVED}
    own, state = steps["rows of tables.0.weight"], sum(p.numel() * 4 for p in model.parameters())
    assert own.harm < 1e-12 < steps["rows of tables.1.weight"].harm
    assert own.saved == pytest.approx(49 * 64 / state)
    chosen = {own.group: REMOVED}
    pipeline = PLAN.pipeline(found.groups, chosen)
    after = Pipeline(str(pipeline)).run(capture(model, few[0]), resources={"calibration": few, "traffic": few}).program
    with torch.no_grad():
        torch.testing.assert_close(after(*few[0]), model(*few[0]), rtol=1e-4, atol=1e-5)
    assert sum(tensor.shape == (50, 16) for tensor in after.state().values()) == 3


@needs_kernels
def test_what_may_not_be_done_is_left_out() -> None:
    assert {step.group.kind for step in ranking(Clicks(), prunes=False).steps()} == {"table", "layer"}
    assert {step.group.kind for step in ranking(Clicks(), quantises=False).steps()} == {"channels"}
    assert ranking(Clicks(), quantises=False, prunes=False).steps() == []


@needs_kernels
@pytest.mark.parametrize(
    ("kinds", "found"),
    [
        (("tables",), {"table"}),
        (("channels", "tables"), {"channels", "table"}),
        (("layers",), {"layer"}),
        (("rows",), set()),  # it is not known how often rows are read
    ],
)
def test_only_what_may_be_compressed_has_steps(kinds: tuple[str, ...], found: set[str]) -> None:
    steps = ranking(Clicks(), kinds=kinds).steps()
    assert {step.group.kind for step in steps} == found
    assert not any("rank" in step.form for step in steps)


@needs_kernels
@pytest.mark.parametrize(("field", "seed"), [(0, 0), (3, 1)])
def test_a_table_that_no_row_reads_does_no_harm(field: int, seed: int) -> None:
    model = Clicks(seed)
    with torch.no_grad():
        model.first.weight[:, 8 + 16 * field : 24 + 16 * field] = 1e-9
    found = harms(ranking(model, prunes=False).steps())
    assert found[f"tables.{field}.weight 8 bits"] + found[f"tables.{field}.weight 4 bits"] < 1e-12
    assert found[f"tables.{(field + 1) % 4}.weight 4 bits"] > 0


@needs_kernels
def test_channels_are_scored_once_for_all_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    measure = prune_channels.answer_changes
    monkeypatch.setattr(prune_channels, "answer_changes", lambda *args: calls.append(1) or measure(*args))
    found = ranking(Clicks(), kinds=("channels",))
    known = found.score(DATA)
    assert known is not None
    assert {"first.weight:0", "second.weight:0"} <= known.values.keys()
    assert found.steps()
    assert len(calls) == 1
    assert ranking(Clicks(), prunes=False).score(DATA) is None
    assert ranking(Clicks(), kinds=("tables",)).score(DATA) is None
