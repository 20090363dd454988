"""Models whose shapes differ for a batch of one row: two plans, both native, both equal to the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import recfx
from recfx.errors import InputError


class Towers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.user, self.item = nn.Embedding(40, 8), nn.Embedding(40, 8)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))

    def both(self, user, item):
        return self.user(user) * self.item(item)


class SqueezeAll(Towers):
    def forward(self, user, item):
        both = self.user(user[:, None]).squeeze() * self.item(item[:, None]).squeeze()
        return torch.sigmoid(self.mlp(both)).squeeze()


class SqueezeFirst(Towers):
    def forward(self, user, item):
        return self.mlp(self.both(user, item)).squeeze(0)


class SqueezeDims(Towers):
    def forward(self, user, item):
        return self.mlp(self.both(user, item)).squeeze((0, 1))


class Branch(Towers):
    def forward(self, user, item):
        if user.shape[0] == 1:
            return self.mlp(self.both(user, item)) * 2
        return self.mlp(self.both(user, item)).squeeze(-1)


class BranchOnLen(Towers):
    def forward(self, user, *, item):
        scores = self.mlp(self.both(user, item)).view(-1)
        return {"score": scores[0] if len(user) == 1 else scores, "user": user}


MODELS = {
    "squeeze()": SqueezeAll,
    "squeeze(0)": SqueezeFirst,
    "squeeze((0, 1))": SqueezeDims,
    "shape branch": Branch,
    "len branch": BranchOnLen,
}


def ids(rows: int, start: int = 3) -> dict[str, torch.Tensor]:
    return {"user": (torch.arange(rows) * 5 + start) % 40, "item": (torch.arange(rows) * 3 + start) % 40}


def same(model: nn.Module, fast: Any) -> None:
    for rows in (1, 2, 3, 9):
        for start in (0, 4):
            given = ids(rows, start)
            torch.testing.assert_close(fast(**given), model(**given))


@pytest.mark.parametrize("rows", [2, 3])
def test_an_example_of_few_rows_has_one_row_cut_from_it(rows: int) -> None:
    model = SqueezeAll().eval()
    same(model, recfx.optimize(model, example_inputs=ids(rows), measure=False))


@pytest.mark.parametrize("rows", [1, 6])
@pytest.mark.parametrize("name", MODELS)
def test_both_plans_are_native_and_equal_the_model(name: str, rows: int) -> None:
    model = MODELS[name]().eval()
    fast = recfx.optimize(model, example_inputs=ids(rows), measure=False)
    same(model, fast)
    assert set(fast.placement) == {"region 0", "one row, region 0"}
    for parts in (fast.parts, fast.parts.one_row):
        targets = {str(n.target) for n in parts.program.graph.nodes}
        assert "recfx.grouped_lookup.default" in targets or "aten.embedding.default" in targets
    assert not any("limits the program" in notice for notice in fast.report.notices)


def test_saved_loaded_refreshed_and_reported(tmp_path: Path) -> None:
    model = SqueezeAll().eval()
    fast = recfx.optimize(model, example_inputs=ids(5))
    assert [m.batch for m in fast.report.measured] == [5]
    assert [m.batch for m in fast.report.one_row.measured] == [1]
    assert "a batch of one row runs a plan of its own" in str(fast.report)
    fast.save(tmp_path / "model")
    loaded = recfx.load(tmp_path / "model")
    same(model, loaded)
    assert loaded.report == fast.report
    size = (tmp_path / "model" / "state.safetensors").stat().st_size
    state = sum(p.numel() * 4 for p in model.parameters())
    assert size < 1.5 * state + 4096, "weights that both plans share are written once"
    with torch.no_grad():
        model.user.weight.mul_(3)
        model.mlp[0].bias.add_(1)
    fast.refresh()
    same(model, fast)
    loaded.refresh(model, example_inputs=ids(5))
    same(model, loaded)


def test_one_row_of_a_request() -> None:
    model = SqueezeAll().eval()
    example = {"user": torch.tensor([7]), "item": torch.arange(6)}
    fast = recfx.optimize(model, example_inputs=example, request_inputs="user", measure=False)
    for rows in (1, 4):
        given = {"user": torch.tensor([9]), "item": torch.arange(rows) + 2}
        want = model(given["user"].expand(rows), given["item"])
        torch.testing.assert_close(fast(**given), want)


def test_constant_inputs_may_be_left_out_of_one_row() -> None:
    model = WithConstant().eval()
    scale = torch.randn(8)
    fast = recfx.optimize(model, example_inputs=(torch.arange(4), scale), constant_inputs=["scale"], measure=False)
    for rows in (1, 3):
        torch.testing.assert_close(fast(torch.arange(rows)), model(torch.arange(rows), scale))


class WithConstant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 8)

    def forward(self, ids, scale):
        return (self.table(ids[:, None]).squeeze() * scale).sum(-1)


class AliasesOneRow(nn.Module):
    """A transposed column of one row is contiguous, so that the write reaches the result."""

    def forward(self, x):
        y = x.clone()
        y.t().contiguous().add_(1)
        return y


def test_aliasing_that_differs_for_one_row() -> None:
    model = AliasesOneRow().eval()
    fast = recfx.optimize(model, example_inputs=torch.randn(4, 3), measure=False)
    assert fast.parts.one_row is not None
    for rows in (1, 2, 5):
        x = torch.randn(rows, 3)
        torch.testing.assert_close(fast(x), model(x))


class RefusesOneRow(Towers):
    def forward(self, user, item):
        both = self.user(user[:, None]).squeeze()
        return self.mlp(torch.cat([both[:, :4], self.item(item)[:, 4:]], 1))


def test_a_model_that_refuses_one_row() -> None:
    model = RefusesOneRow().eval()
    fast = recfx.optimize(model, example_inputs=ids(6))
    assert any("the model itself refuses one row" in notice for notice in fast.report.notices)
    assert [m.batch for m in fast.report.measured] == [6]
    given = ids(2)
    torch.testing.assert_close(fast(**given), model(**given))
    with pytest.raises(InputError, match="batch = 1 is outside the captured range 2 to"):
        fast(**ids(1))


def test_bad_ids_of_one_row_are_refused_by_name() -> None:
    fast = recfx.optimize(SqueezeAll().eval(), example_inputs=ids(4), measure=False)
    with pytest.raises(InputError, match="id 77"):
        fast(torch.tensor([77]), torch.tensor([1]))
    with pytest.raises(InputError, match="dtype"):
        fast(torch.tensor([7.0]), torch.tensor([1]))
