"""`Judge`: counts evaluations, and refuses an `evaluate` that cannot be trusted."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import recfx
from recfx.budget.interval import Drop
from recfx.budget.judge import Judge
from recfx.budget.measures import measure_of
from recfx.errors import DataError, InputError


class Scorer(nn.Module):
    """Scores [B] from inputs [B, 2]."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 0.0]))
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight


X = torch.randn(300, 2, generator=torch.Generator().manual_seed(0))
LABEL = (X[:, 0] + torch.randn(300, generator=torch.Generator().manual_seed(1)) > 0).float()
BUDGET = recfx.Budget(1e-3)


def judge(evaluate: Any, budget: recfx.Budget = BUDGET) -> Judge:
    return Judge(measure_of(evaluate), budget, Scorer())


def test_all_evaluations_are_counted() -> None:
    own = judge(recfx.AUC([(X, LABEL)]))
    own.begin()
    assert (own.evaluations, own.left) == (2, 7)
    drop = own.trial(lambda x: x[:, 0] * 2)
    assert (drop.estimate, drop.interval) == (0.0, (0.0, 0.0))
    assert own.fits(drop)
    before, after, drop = own.certify(lambda x: x[:, 1])
    assert (own.evaluations, own.left) == (5, 4)
    assert drop.estimate == pytest.approx(before - after)
    assert not own.fits(drop)


def test_two_certificates_share_the_probability_of_a_false_claim() -> None:
    own = judge(recfx.AUC([(X, LABEL)]), recfx.Budget(1e-3, confidence=0.9))
    errors = [1 - own.confidence(attempt) for attempt in range(2)]
    assert sum(errors) == pytest.approx(0.1)
    assert errors[0] > errors[1] > 0
    own.begin()
    _, _, first = own.certify(lambda x: x[:, 1], own.confidence(0))
    _, _, second = own.certify(lambda x: x[:, 1], own.confidence(1))
    assert first.interval is not None
    assert second.interval is not None
    assert second.interval[0] < first.interval[0] < first.interval[1] < second.interval[1]


@pytest.mark.parametrize(("evaluations", "left"), [(5, 1), (6, 1), (7, 2)])
def test_an_evaluation_is_kept_for_a_second_certificate_where_there_are_enough(evaluations: int, left: int) -> None:
    own = judge(recfx.AUC([(X, LABEL)]), recfx.Budget(1e-3, evaluations=evaluations))
    own.begin()
    assert own.left == left
    for _ in range(left):
        own.trial(lambda x: x[:, 0])
    own.certify(lambda x: x[:, 0])
    assert own.may_certify is (evaluations > 5)


def test_what_fits_just_so_is_not_safe() -> None:
    own = judge(recfx.AUC([(X, LABEL)]))
    own.begin()
    just = Drop(0.0, (-5e-4, 5e-4), own.confidence(0))
    assert own.fits(just)
    assert not own.is_safe(just)
    assert own.is_safe(Drop(0.0, (-2e-4, 2e-4), own.confidence(0)))
    assert own.is_safe(Drop(1e-3, None, 0.95))
    assert not own.is_safe(Drop(1.1e-3, None, 0.95))


def test_a_function_needs_no_evaluation_of_the_model_for_the_certificate() -> None:
    own = judge(lambda model: 0.5)
    own.begin()
    assert (own.evaluations, own.left) == (2, 8)
    assert own.certify(lambda: None)[:2] == (0.5, 0.5)
    assert own.evaluations == 3
    assert own.bound(own.trial(lambda: None)) is None
    assert own.fits(own.trial(lambda: None))


def raises(model: Any) -> float:
    raise KeyError("user_id")


def wobbles() -> Callable[[Any], float]:
    values = itertools.count()
    return lambda model: next(values) * 1e-3


def trains(model: nn.Module) -> float:
    with torch.no_grad():
        model.weight[1] += 1  # type: ignore[index]
    return 0.5


@pytest.mark.parametrize(
    ("evaluate", "says"),
    [
        (raises, "evaluate failed on your model: KeyError: 'user_id'"),
        (wobbles(), "not deterministic: two evaluations of your model give 0 and 0.001"),
        (trains, "evaluate changed the model: weight"),
        (lambda model: float(model.train() is None), "left the model in train mode"),
        (lambda model: float("nan"), "evaluate returned nan"),
        (lambda model: "good", "evaluate returned a str"),
        (recfx.AUC([(X[:, :1], LABEL)]), "evaluate failed on your model: RuntimeError"),
    ],
)
def test_what_cannot_be_trusted(evaluate: Any, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        judge(evaluate).begin()
    assert caught.value.hint


def test_scores_of_nan_are_an_error_of_the_data() -> None:
    with pytest.raises(DataError, match="scores are NaN"):
        judge(recfx.AUC([(X * torch.nan, LABEL)])).begin()


def test_a_failure_on_a_composition_says_on_which_model() -> None:
    own = judge(lambda model: float(model.weight[0].detach()))
    own.begin()
    with pytest.raises(InputError, match="evaluate failed on the compressed model: AttributeError") as caught:
        own.trial(lambda x: x)
    assert "only call the model" in str(caught.value.hint)


def test_a_small_difference_is_a_notice() -> None:
    values = itertools.count()
    own = judge(lambda model: 0.5 + next(values) * 1e-5)
    own.begin()
    assert own.notices == ["two evaluations of your model differ by 1e-05"]
