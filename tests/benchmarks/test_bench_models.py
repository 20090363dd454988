"""The benchmark models outside the zoo: deterministic, any batch, padding without effect, and compiled with equal outputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import recfx
from benchmarks.models.field_convolutions import CCPM, FGCNN
from benchmarks.models.hstu import HSTU
from benchmarks.models.image_tower import ImageTower
from benchmarks.models.interest_experts import InterestExperts
from benchmarks.models.mask_net import MaskNet
from benchmarks.models.text_tower import TextTower
from benchmarks.models.two_recurrences import TwoRecurrences

_ROWS = (50, 7, 100, 3, 23, 11, 9, 30)

SMALL: dict[str, Any] = {
    "text-tower": lambda: TextTower(50, 6, 12, layers=2, heads=3, items=40, dim=4, out=8),
    "image-tower": lambda: ImageTower(30, 40, 4, size=8, channels=(4, 6), out=8),
    "two-recurrences": TwoRecurrences.small,
    "ccpm": lambda: CCPM(_ROWS, 4, hidden=(8,)),
    "fgcnn": lambda: FGCNN(_ROWS, 4, channels=(3, 4), width=3, hidden=(8,)),
    "hstu": HSTU.small,
    "mask-net": MaskNet.small,
    "interest-experts": InterestExperts.small,
}


def _model(name: str) -> Any:
    torch.manual_seed(0)
    return SMALL[name]().eval()


@pytest.mark.parametrize("name", SMALL)
def test_rows_are_scored_one_by_one(name: str) -> None:
    model = _model(name)
    inputs = model.example_inputs(5, zipf=1.05, seed=3)
    with torch.inference_mode():
        together = model(*inputs)
        alone = torch.cat([model(*(value[row : row + 1] for value in inputs)) for row in range(5)])
    assert together.isfinite().all()
    assert together.std() > 0
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("name", SMALL)
def test_the_compiled_model_gives_the_same_scores(name: str) -> None:
    model = _model(name)
    fast = recfx.optimize(model, example_inputs=model.example_inputs(6), measure=False)
    for batch in (1, 6, 17):
        inputs = model.example_inputs(batch, seed=batch)
        with torch.inference_mode():
            torch.testing.assert_close(fast(*inputs), model(*inputs), rtol=1e-4, atol=1e-5)


def test_padding_does_not_reach_the_score_of_a_text() -> None:
    model = _model("text-tower")
    tokens, item = model.example_inputs(4)
    tokens[:, 4:] = 0
    with torch.inference_mode():
        before = model(tokens, item)
        model.positions[4:] += 1
        assert torch.equal(model(tokens, item), before)


def test_an_empty_sequence_has_a_finite_score() -> None:
    for name in ("hstu", "two-recurrences", "interest-experts"):
        model = _model(name)
        user, item, history = model.example_inputs(3)
        with torch.inference_mode():
            assert model(user, item, torch.zeros_like(history)).isfinite().all()
