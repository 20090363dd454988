"""compose_tables: which tables it replaces, what stays, what training gives back, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import recfx
from recfx.errors import InputError
from recfx.learn import compose_tables, finetune
from recfx.learn.composed_tables import QuotientRemainderTable, TensorTrainTable

ROWS = 400


class Clicks(nn.Module):
    """Two large tables, one of them with a padding row of zeros, and a small one: ids [B, 3] -> [B]."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.user, self.item = nn.Embedding(ROWS, 8), nn.Embedding(ROWS, 8, padding_idx=0)
        self.small = nn.Embedding(9, 8)
        self.layers = nn.Sequential(nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 1))
        self.eval()

    def forward(self, ids: Tensor) -> Tensor:
        rows = [self.user(ids[:, 0]), self.item(ids[:, 1]), self.small(ids[:, 2])]
        return self.layers(torch.cat(rows, 1)).squeeze(1)


IDS = torch.stack([torch.arange(64) * 5, torch.arange(64) % 7, torch.arange(64) % 9], 1)


@pytest.mark.parametrize("form", ["quotient-remainder", "tensor-train"])
def test_large_tables_are_composed_in_a_copy(form: Any) -> None:
    model = Clicks()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    made = compose_tables(model, form, min_rows=100)
    kind = {"quotient-remainder": QuotientRemainderTable, "tensor-train": TensorTrainTable}[form]
    assert isinstance(made.user, kind)
    assert isinstance(made.item, kind)
    assert type(made.small) is nn.Embedding
    assert not made.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert sum(p.numel() for p in made.parameters()) < 0.6 * sum(p.numel() for p in model.parameters())
    assert not bool(made.item(torch.tensor(0)).any())
    fast = recfx.optimize(made, example_inputs=(IDS,), measure=False)
    torch.testing.assert_close(fast(IDS), made(IDS).detach(), rtol=1e-4, atol=1e-5)


def test_fine_tuning_on_the_answers_brings_the_composed_model_closer() -> None:
    model = Clicks()
    made = compose_tables(model, only=["user"], collisions=8)

    def error() -> float:
        with torch.no_grad():
            return float((made(IDS) - model(IDS)).square().mean())

    before = error()
    batches = [(IDS, torch.zeros(64))] * 60
    finetune(made, batches, "mse", teacher=model, lr=3e-3)
    assert error() < 0.2 * before


def test_rows_that_are_read_often_are_fitted_more_closely() -> None:
    model = Clicks()
    counts = torch.ones(ROWS)
    counts[:20] = 1000
    errors = []
    for given in (None, {"user": counts}):
        made: Any = compose_tables(model, only=["user"], combine="add", counts=given)
        errors.append(float((made.user.weight[:20] - model.user.weight[:20]).detach().square().mean()))
    assert errors[1] < 0.5 * errors[0]


def test_tables_of_one_weight_share_the_composed_table() -> None:
    model = Clicks()
    model.item = nn.Embedding(ROWS, 8)
    model.item.weight = model.user.weight
    made: Any = compose_tables(model.eval(), min_rows=100)
    assert made.item is made.user


def test_a_table_whose_weight_another_module_reads_stays() -> None:
    model = Clicks()
    model.head = nn.Linear(8, ROWS, bias=False)
    model.head.weight = model.user.weight
    with pytest.warns(UserWarning, match="user: another module reads the weight"):
        made: Any = compose_tables(model.eval(), min_rows=100)
    assert type(made.user) is nn.Embedding
    assert isinstance(made.item, QuotientRemainderTable)


def with_nan() -> nn.Module:
    model = Clicks()
    with torch.no_grad():
        model.user.weight[3, 2] = torch.nan
    return model


@pytest.mark.parametrize(
    ("model", "options", "says"),
    [
        (Clicks, {"form": "hashed"}, "the form 'hashed'"),
        (Clicks, {}, "the largest nn.Embedding has 400 rows"),
        (lambda: nn.Linear(3, 1), {}, "there is no nn.Embedding"),
        (Clicks, {"only": ["users"]}, "no nn.Embedding 'users'"),
        (Clicks, {"min_rows": 100, "rank": 3}, "an option is unknown"),
        (Clicks, {"min_rows": 100, "collisions": 0}, "collisions=0"),
        (Clicks, {"min_rows": 100, "counts": {"small": torch.ones(9)}}, "counts name 'small'"),
        (Clicks, {"min_rows": 100, "counts": {"user": torch.ones(9)}}, "counts of a table of 400 rows"),
        (with_nan, {"min_rows": 100}, "NaN or infinities"),
    ],
)
def test_what_cannot_be_composed_is_refused(model: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        compose_tables(model(), **options)
    assert caught.value.hint
