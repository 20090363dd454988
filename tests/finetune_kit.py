"""Helpers of the tests of fine-tuning: small models, a pruned program, and rows with labels."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import recfx
from recfx.capture import capture
from recfx.learn import TrainSettings
from recfx.pipeline import Pipeline
from recfx.zoo import DLRM

QUICK = TrainSettings(epochs=2, lr=1e-2, l2=0.0, evaluate_every=1, patience=None, progress=False)


def small(kind: Any = DLRM, **options: Any) -> tuple[nn.Module, Any]:
    torch.manual_seed(3)
    model = kind.small(**options).eval()
    return model, model.example_inputs(32)


@cache
def pruned_dlrm() -> tuple[recfx.Program, tuple[Tensor, ...]]:
    model, inputs = small(bottom=(16,), top=(16, 16))
    text = "canonicalize,prune-channels{ratio=0.5, round_to=2}"
    return Pipeline(text).run(capture(model, inputs)).program, inputs


def rows(inputs: tuple[Tensor, ...], count: int = 96) -> TensorDataset:
    g = torch.Generator().manual_seed(5)
    picked = torch.randint(len(inputs[0]), (count,), generator=g)
    held = [tensor[picked] for tensor in inputs]
    return TensorDataset(*held, (held[0].sum(1) > 0).float())
