"""Models of other libraries are compressed within a budget, with labels drawn from their own scores.

Slow, and needs packages from outside: `make thirdparty`.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from corpus import all_cases, generator
from native_kit import needs_kernels
from torch import Tensor

import recfx

LABELS = (
    *(
        "deepctr-torch/DeepFM",
        "deepctr-torch/DCN-matrix",
        "deepctr-torch/DIN",
        "deepctr-torch/MMOE",
        "deepctr-torch/AutoInt",
    ),
    *(
        "torch-rechub/DeepFM",
        "torch-rechub/DCNv2-full",
        "torch-rechub/DIN",
        "torch-rechub/MMOE",
        "torch-rechub/WideDeep",
    ),
)
CASES = {case.label: case for case in all_cases() if case.label in LABELS}
BUDGET = recfx.Budget(5e-3)

pytestmark = pytest.mark.slow


def first_score(model: Any, *args: Any, **kwargs: Any) -> Tensor:
    """One score for each row; the first task of several."""
    out = model(*args, **kwargs)
    return out if out.ndim == 1 else out[:, 0]


@needs_kernels
@pytest.mark.parametrize("label", LABELS)
def test_a_model_is_compressed_within_its_budget(label: str) -> None:
    case = CASES[label]
    if not case.installed:
        pytest.skip(f"{case.requires} is not installed: make thirdparty")
    built = case.build()
    batches = []
    for seed in range(12):
        args, kwargs = built.inputs(500, generator(seed))
        with torch.no_grad():
            scores = first_score(built.model, *args, **kwargs).double()
        chance = torch.sigmoid(6 * (scores - scores.mean()) / scores.std())
        batches.append((kwargs or args, torch.bernoulli(chance, generator=generator(seed))))
    args, kwargs = built.example()
    fast = recfx.optimize(
        built.model,
        "native",
        example_inputs=kwargs or args,
        evaluate=recfx.AUC(batches, forward=first_score),
        budget=BUDGET,
        measure=False,
    )
    found = fast.report.budget
    assert found is not None
    assert found.met, str(found)
    assert found.evaluations <= 12
    assert found.choices
    # These models are small: half of their bytes may be layers of few weights.
    assert found.bytes[1] < 0.9 * found.bytes[0], str(found)
