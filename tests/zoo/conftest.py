"""Shared by the zoo's tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from recfx.zoo import MODELS, ZooModel

#: Configurations, in addition to the small defaults, that take another branch of `forward`.
VARIANTS: dict[str, tuple[str, dict[str, object]]] = {
    "dlrm-diagonal": ("dlrm", {"diagonal": True}),
    "dlrm-one-table": ("dlrm", {"tables": (9,), "dense": 1}),
    "wide-deep-no-cross": ("wide-deep", {"crosses": (), "batch_norm": True}),
    "deepfm-no-batch-norm": ("deepfm", {"batch_norm": False, "dropout": 0.5}),
    "xdeepfm-one-layer": ("xdeepfm", {"maps": (3,), "batch_norm": True}),
    "dcn-v2-low-rank": ("dcn-v2", {"rank": 2}),
    "dcn-v2-parallel": ("dcn-v2", {"structure": "parallel"}),
    "dcn-v2-low-rank-parallel": ("dcn-v2", {"rank": 3, "structure": "parallel", "batch_norm": True}),
    "autoint-plus": ("autoint", {"deep": (8, 4)}),
    "din-softmax": ("din", {"softmax": True, "activation": "prelu"}),
    "din-no-categories": ("din", {"categories": 0}),
    "dien-relu": ("dien", {"activation": "relu", "length": 2}),
    "dien-one-place": ("dien", {"length": 1}),
    "bst-two-layers": ("bst", {"layers": 2, "categories": 0}),
    "mmoe-one-task": ("mmoe", {"tasks": 1, "experts": 1}),
    "two-tower-no-categories": ("two-tower", {"categories": 0, "activation": "relu"}),
    "sasrec-one-head": ("sasrec", {"heads": 1, "inner": 7, "candidates": 1}),
    "lightgcn-no-layers": ("lightgcn", {"layers": 0}),
}
CASES = [*MODELS, *VARIANTS]


def make(case: str) -> ZooModel:
    """The small model of a case in evaluation mode, with weights and moments so large that every part affects the
    output."""
    name, overrides = VARIANTS.get(case, (case, {}))
    torch.manual_seed(0)
    model = MODELS[name].small(**overrides)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
        for module in model.modules():
            if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.padding_idx is not None:
                module.weight[module.padding_idx].zero_()
    return model.eval()


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    """The name of each configuration in turn."""
    name: str = request.param
    return name


@pytest.fixture
def make_model() -> Callable[[str], ZooModel]:
    """Makes the model of a case."""
    return make


@pytest.fixture
def generator() -> torch.Generator:
    """A seeded source of randomness."""
    return torch.Generator().manual_seed(0)
