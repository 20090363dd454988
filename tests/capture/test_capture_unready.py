"""Models without a Python forward or without values are refused with the next step."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import recfx


def _plain() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 2), nn.ReLU()).eval()


MODELS = {
    "scripted": (lambda: torch.jit.script(_plain()), "TorchScript", "scripted or traced from"),
    "traced": (lambda: torch.jit.trace(_plain(), torch.ones(4, 3)), "TorchScript", "scripted or traced from"),
    "scripted inside": (
        lambda: nn.Sequential(torch.jit.script(_plain())).eval(),
        "TorchScript",
        "scripted or traced from",
    ),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(2)).eval(), "lazy", "call the model once"),
    "meta": (lambda: nn.Linear(3, 2, device="meta").eval(), "meta device", "to_empty"),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_that_are_not_ready_are_refused(name):
    make, what, hint = MODELS[name]
    with pytest.raises(recfx.CaptureError, match=what) as caught:
        recfx.optimize(make(), example_inputs=(torch.ones(4, 3),), measure=False)
    assert hint in caught.value.hint
