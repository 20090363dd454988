"""A certificate that does not hold is followed by one of a safer composition, which no row for the certificate helped to choose."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from budget_kit import OneTableDecides, batches, inputs
from native_kit import needs_kernels

import recfx
from recfx.budget.certification import Certifier, Final
from recfx.budget.interval import Drop
from recfx.budget.judge import Judge
from recfx.budget.measures import measure_of

BUDGET = recfx.Budget(1e-2)
ALL = frozenset(range(4))
TRIALS = {
    frozenset(): (0.009, 0.001),
    frozenset({0}): (0.008, 0.001),
    frozenset({1}): (0.002, 0.001),
    frozenset({0, 1}): (0.001, 0.001),
    frozenset({2}): (0.001, 0.009),
}


class Built:
    """Compositions of four steps that are all worth the same. Building more than `most` is interrupted."""

    steps = range(4)

    def __init__(self, most: int) -> None:
        self.made: list[frozenset[int]] = []
        self.most = most

    def setting(self, reverted: frozenset[int]) -> frozenset[int]:
        return reverted

    def worth_of(self, reverted: frozenset[int]) -> float:
        return 4.0 - len(reverted)

    def built(self, setting: frozenset[int]) -> Any:
        if len(self.made) == self.most:
            raise KeyboardInterrupt
        self.made.append(setting)
        return SimpleNamespace(one_row=None, placed=None, report=SimpleNamespace(), recipe=None, plans=None)


class Judged(Judge):
    """Certifies with given drops, in order; None interrupts."""

    def __init__(self, drops: list[float | None], *, budget: recfx.Budget = BUDGET) -> None:
        super().__init__(measure_of(lambda model: 0.0), budget, torch.nn.Identity())
        self._given = iter(drops)
        self._before = 0.8
        self.confidences: list[float] = []

    def certify(self, final: Any, confidence: float | None = None) -> tuple[float, float, Drop]:
        assert confidence is not None
        self.evaluations += 1
        self.confidences.append(confidence)
        drop = next(self._given)
        if drop is None:
            raise KeyboardInterrupt
        return 0.8, 0.8 - drop, Drop(drop, (drop - 1e-3, drop + 1e-3), confidence)


@pytest.fixture
def unbuilt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compositions are not compiled."""
    monkeypatch.setattr("recfx.budget.certification.CompiledModel", lambda parts: parts)
    monkeypatch.setattr("recfx.budget.certification._compiled", lambda parts: parts)


def certified(judge: Judge, reverted: frozenset[int] = frozenset(), *, most: int = 9) -> tuple[Final, Built]:
    drops = {
        steps: Drop(drop, (drop - width, drop + width), judge.confidence(0)) for steps, (drop, width) in TRIALS.items()
    }
    built = Built(most)
    return Certifier(judge, built, drops).certified(reverted), built  # type: ignore[arg-type]


@needs_kernels
def test_a_model_whose_rows_for_choices_say_nothing_is_left_whole() -> None:
    """On the rows for choices the labels are drawn without looking at the scores, so that few bits seem to do no harm."""
    model = OneTableDecides()
    metric = recfx.AUC(batches(model))
    labels = np.random.default_rng(0).integers(0, 2, len(metric.choice.labels)).astype(np.float64)
    metric.choice = dataclasses.replace(metric.choice, labels=labels)
    fast = recfx.optimize(
        model, "native", example_inputs=inputs(8), evaluate=metric, budget=recfx.Budget(5e-3), measure=False
    )
    found = fast.report.budget
    assert found is not None
    assert any(trial.fits and trial.reverted < max(t.reverted for t in found.trials) for trial in found.trials)
    assert found.met, str(found)
    assert found.confidence == pytest.approx(0.9875)
    assert found.evaluations <= 12
    assert "did not hold" in str(found)
    assert fast.report.budget.drop < 1e-3


@pytest.mark.usefixtures("unbuilt")
def test_a_certificate_that_holds_is_the_only_one() -> None:
    judge = Judged([0.008])
    final, built = certified(judge)
    assert (final.met, final.complete, final.reverted, final.notices) == (True, True, frozenset(), ())
    assert built.made == [frozenset()]
    assert judge.confidences == [judge.confidence(0)]


@pytest.mark.usefixtures("unbuilt")
def test_the_second_one_is_of_what_saves_most_and_is_safe() -> None:
    judge = Judged([0.0095, 0.003])
    final, built = certified(judge)
    assert built.made == [
        frozenset(),
        frozenset({1}),
    ]  # {0} fits but is not safe, {0, 1} saves less, the interval of {2} is wide
    assert final.met
    assert final.reverted == frozenset({1})
    assert judge.confidences == [judge.confidence(0), judge.confidence(1)]
    assert final.drop.confidence == judge.confidence(1)
    (said,) = final.notices
    assert "did not hold (drop +0.009500, interval up to +0.010500)" in said


@pytest.mark.usefixtures("unbuilt")
def test_the_second_one_has_a_lower_drop_than_the_first_one() -> None:
    final, built = certified(Judged([0.02, 0.0]), frozenset({0, 1}))
    assert built.made == [frozenset({0, 1}), ALL]
    assert final.reverted == ALL


@pytest.mark.usefixtures("unbuilt")
def test_there_is_no_third_one() -> None:
    final, built = certified(Judged([0.0105, 0.02]))
    assert not final.met
    assert final.reverted == frozenset({1})
    assert len(built.made) == 2


@pytest.mark.usefixtures("unbuilt")
@pytest.mark.parametrize("reverted", [frozenset(), frozenset({0}), frozenset({0, 1})])
def test_rows_for_choices_that_the_certificate_contradicts_choose_nothing_more(reverted: frozenset[int]) -> None:
    final, built = certified(Judged([0.02, 0.0]), reverted)
    assert built.made == [reverted, ALL]
    assert final.met
    assert final.reverted == ALL


@pytest.mark.usefixtures("unbuilt")
def test_nothing_is_safer_than_nothing() -> None:
    final, built = certified(Judged([0.02]), ALL)
    assert not final.met
    assert built.made == [ALL]


@pytest.mark.usefixtures("unbuilt")
def test_without_an_evaluation_left_the_first_one_stays() -> None:
    judge = Judged([0.02], budget=dataclasses.replace(BUDGET, evaluations=5))
    judge.evaluations = 4
    final, built = certified(judge)
    assert built.made == [frozenset()]
    assert not final.met


@pytest.mark.usefixtures("unbuilt")
def test_an_interruption_leaves_what_was_certified() -> None:
    final, built = certified(Judged([0.02, None]))
    assert final.reverted == frozenset()
    assert final.complete
    assert final.notices == ("interrupted before a safer composition was certified",)
    final, built = certified(Judged([0.02]), most=1)  # while the safer one is built
    assert (final.complete, final.drop.estimate) == (True, 0.02)
    assert final.notices == ("interrupted before a safer composition was certified",)
    final, built = certified(Judged([None]))
    assert not final.complete
    assert (final.before, final.drop.estimate, final.drop.interval) == (0.8, 0.009, None)
    assert final.drop.confidence == pytest.approx(0.9625)
    assert built.made == [frozenset()]
