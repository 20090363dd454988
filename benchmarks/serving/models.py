"""The models of the serving benchmark."""

from __future__ import annotations

import torch

from recfx.compiled import CompiledModel
from recfx.optimizer import optimize
from recfx.zoo import ZooModel, build

#: Name -> constructor arguments; 26 tables of 100,000 rows for the CTR models.
MODELS: dict[str, dict[str, object]] = {
    "dlrm": {"tables": [100_000] * 26},
    "deepfm": {"tables": [100_000] * 26},
    "din": {},
}


def make(name: str) -> ZooModel:
    """The model, with the same weights in each process."""
    torch.manual_seed(0)
    return build(name, **MODELS[name]).eval()


def compiled(name: str, precision: str = "fp32") -> CompiledModel:
    """The model, compiled for the CPU with default options."""
    model = make(name)
    example = model.example_inputs(16)
    return optimize(model, target="native", example_inputs=example, max_batch=4096, precision=precision)
