"""A NaN of an input stays one in models whose tables and layers are quantised."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from native_kit import needs_kernels
from torch import nn
from torch.nn import functional

import recfx
from recfx.errors import VerificationError
from recfx.ir import Exactness
from recfx.ir.numeric import compare_outputs
from recfx.passes import NATIVE_PIPELINE

pytestmark = needs_kernels

#: All layers, regardless of size.
PIPELINES = {
    "int8": f"{NATIVE_PIPELINE},quantize-tables,quantize-linears{{min_weights=1}}",
    "int4": f"{NATIVE_PIPELINE},quantize-tables{{bits=4}},quantize-linears{{min_weights=1}}",
    "bf16": f"{NATIVE_PIPELINE},quantize-tables{{bits=16}},quantize-linears{{bits=16,min_weights=1}}",
}
X, IDS, WEIGHTS = torch.randn(8, 13), torch.randint(0, 50, (8, 6)), torch.rand(8, 6)


class Model(nn.Module):
    """A function of modules and inputs."""

    def __init__(self, function: Callable[..., torch.Tensor], *modules: nn.Module) -> None:
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(modules)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.function(self.parts, *inputs)


def _dots(m: nn.ModuleList, x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    vectors = torch.cat([m[0](x).unsqueeze(1), m[1](ids)], 1)
    rows, columns = torch.tril_indices(7, 7, -1)
    return m[2](torch.cat([m[0](x), (vectors @ vectors.mT)[:, rows, columns]], 1))  # type: ignore[no-any-return]


def _gated(m: nn.ModuleList, x: torch.Tensor) -> torch.Tensor:
    return m[2](m[0](x) * torch.sigmoid(m[1](x)) + x)  # type: ignore[no-any-return]


def _attention(m: nn.ModuleList, x: torch.Tensor) -> torch.Tensor:
    rows = x.reshape(-1, 1, 13) * torch.linspace(0.5, 1.5, 5).reshape(1, 5, 1)
    return m[3](functional.scaled_dot_product_attention(m[0](rows), m[1](rows), m[2](rows))).mean(1)  # type: ignore[no-any-return]


def _chain(activation: nn.Module) -> Callable[[], nn.Module]:
    layers = [nn.Linear(13, 32), activation, nn.Linear(32, 16), activation, nn.Linear(16, 1)]
    return lambda: Model(lambda m, x: m[0](x), nn.Sequential(*layers))


#: Name -> the model, its inputs.
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[torch.Tensor, ...]]] = {
    "relu": (_chain(nn.ReLU()), (X,)),
    "gelu": (_chain(nn.GELU()), (X,)),
    "clamped": (_chain(nn.Hardtanh()), (X,)),
    "normed": (lambda: Model(lambda m, x: m[2](m[1](m[0](x)).relu()), nn.Linear(13, 32), nn.LayerNorm(32), nn.Linear(32, 2)), (X,)),
    "gated": (lambda: Model(_gated, *(nn.Linear(13, 13) for _ in range(3))), (X,)),
    "cross": (lambda: Model(lambda m, x: m[1](x * m[0](x) + x), nn.Linear(13, 13), nn.Linear(13, 1)), (X,)),
    "maximum": (lambda: Model(lambda m, x: m[1](torch.maximum(m[0](x), x)), nn.Linear(13, 13), nn.Linear(13, 1)), (X,)),
    "attention": (lambda: Model(_attention, *(nn.Linear(13, 13) for _ in range(4))), (X,)),
    "dots": (lambda: Model(_dots, nn.Linear(13, 16), nn.Embedding(50, 16), nn.Linear(37, 1)), (X, IDS)),
    "weighted bags": (
        lambda: Model(lambda m, i, w: m[1](m[0](i, per_sample_weights=w)), nn.EmbeddingBag(50, 16, mode="sum"), nn.Linear(16, 2)),
        (IDS, WEIGHTS),
    ),
}  # fmt: skip


@pytest.mark.parametrize("precision", PIPELINES)
@pytest.mark.parametrize("name", MODELS)
def test_a_nan_stays_in_its_row(name: str, precision: str) -> None:
    make, inputs = MODELS[name]
    torch.manual_seed(0)
    model = make().eval()
    fast = recfx.optimize(
        model, "native", example_inputs=inputs, pipeline=PIPELINES[precision], measure=False, verify="structure"
    )
    for at, given in enumerate(inputs):
        if not given.is_floating_point():
            continue
        spoiled: list[Any] = list(inputs)
        spoiled[at] = given.clone()
        spoiled[at][2, -1], spoiled[at][5] = math.nan, math.nan
        with torch.no_grad():
            expected = model(*spoiled)
        assert bool(expected[[2, 5]].isnan().any(1).all())
        assert torch.equal(fast(*spoiled).isnan(), expected.isnan())


def test_a_quantised_program_that_loses_a_nan_is_refused() -> None:
    """On rows with a NaN; the original has no NaN on other rows."""
    want, truth = torch.tensor([[math.nan], [1.0]]), torch.tensor([[math.nan], [1.0]], dtype=torch.float64)
    lost = torch.tensor([[0.5], [1.01]])
    with pytest.raises(VerificationError, match="a NaN went away"):
        compare_outputs([want], [lost], Exactness.APPROX, "rows with zeros and NaN", lambda: [truth], special=True)
    kept = torch.tensor([[math.nan], [1.01]])
    compare_outputs([want], [kept], Exactness.APPROX, "rows with zeros and NaN", lambda: [truth], special=True)


def test_a_nan_that_float64_does_not_have_may_go_away() -> None:
    """A NaN that float32 arithmetic made from huge numbers."""
    want, truth = torch.tensor([[math.nan], [1.0]]), torch.tensor([[0.5], [1.0]], dtype=torch.float64)
    compare_outputs([want], [torch.tensor([[0.5], [1.0]])], Exactness.APPROX, "rows", lambda: [truth], special=True)
