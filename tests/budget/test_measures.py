"""The two kinds of `evaluate`, and numbers that functions return."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import recfx
from recfx.budget.measures import as_number, measure_of
from recfx.errors import InputError


def quality(model: Any) -> float:
    return float(model)


def test_a_function_has_no_rows_and_no_interval() -> None:
    measure = measure_of(quality)
    assert (measure.name, measure.rows, measure.parts, measure.data()) == ("quality", None, False, None)
    drop = measure.drop(measure.sample(0.8, False), measure.sample(0.7, True), 0.95, True)
    assert drop.estimate == pytest.approx(0.1)
    assert drop.interval is None
    assert measure_of(lambda model: 1.0).name == "evaluate"


def test_a_metric_of_rows_has_two_parts() -> None:
    scores = torch.randn(100, 1, generator=torch.Generator().manual_seed(0))
    measure = measure_of(recfx.AUC([(scores, (scores[:, 0] > 0).float())], choice=0.4))
    assert (measure.name, measure.rows, measure.parts) == ("AUC", (40, 60), True)
    before, after = (measure.sample(lambda x, sign=sign: sign * x[:, 0], True) for sign in (1, -1))
    assert measure.value(before, True) == 1.0
    assert measure.drop(before, after, 0.95, True).interval == (1.0, 1.0)
    assert len(str(measure.data())) == 16


@pytest.mark.parametrize("value", [2, 2.0, np.float32(2), np.array([2.0]), torch.tensor(2.0), torch.tensor([[2]])])
def test_numbers(value: Any) -> None:
    assert as_number(value) == 2.0


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (None, "a NoneType"),
        ("0.7", "a str"),
        (True, "a bool"),
        (torch.zeros(2), "a Tensor"),
        (np.zeros(0), "a ndarray"),
        ((0.5, 0.6), "a tuple"),
        (1j, "a complex"),
        (float("nan"), "nan"),
        (torch.tensor(float("inf")), "inf"),
    ],
)
def test_what_is_not_a_number(value: Any, says: str) -> None:
    with pytest.raises(InputError, match=f"evaluate returned {says}") as caught:
        as_number(value)
    assert caught.value.hint


def test_what_cannot_be_called() -> None:
    with pytest.raises(InputError, match="evaluate= is a float, which cannot be called"):
        measure_of(0.7)
