"""Helpers of the tests of request inputs: models of the zoo with their fields split between request and candidate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

import recfx
from recfx.passes import default_pipeline
from recfx.zoo import MODELS

#: The request pipeline for the zoo's tiny models, without a least size of splits.
EAGER_TO_SPLIT = default_pipeline(requests=True).replace(
    "hoist-requests", "hoist-requests{least_columns=1,least_fields=1}"
)


class SplitFields(nn.Module):
    """A click model whose sparse fields are two matrices of ids, the request's and the candidate's."""

    def __init__(self, model: nn.Module, request: Sequence[int], fields: int) -> None:
        super().__init__()
        self.model = model
        self.request = list(request)
        self.candidate = [f for f in range(fields) if f not in self.request]
        self.register_buffer("order", torch.tensor([*self.request, *self.candidate]).argsort())
        self.eval()

    def forward(self, dense: Tensor, user: Tensor, item: Tensor) -> Any:
        return self.model(dense, torch.cat([user, item], dim=1)[:, self.order])

    def example_inputs(self, batch: int, seed: int = 0) -> tuple[Tensor, ...]:
        dense, sparse = self.model.example_inputs(batch, seed=seed)  # type: ignore[operator]
        return dense, sparse[:, self.request], sparse[:, self.candidate]


def small(name: str, seed: int = 0, **overrides: Any) -> nn.Module:
    """A tiny model of the zoo with random weights of moderate size, in eval mode."""
    torch.manual_seed(seed)
    model: nn.Module = MODELS[name].small(**overrides)  # type: ignore[attr-defined]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
        for name_, buffer in model.named_buffers():
            if name_.endswith("running_mean"):
                buffer.normal_()
            elif name_.endswith("running_var"):
                buffer.uniform_(0.5, 2.0)
    return model.eval()


def request_call(
    inputs: Sequence[Tensor], at: Sequence[int], index: Tensor
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Inputs of the compiled model and of the user's model: at positions `at`, the first has one row per request, and
    the second repeats these rows."""
    requests = int(index.max()) + 1
    short = tuple(x[:requests] if i in at else x for i, x in enumerate(inputs))
    full = tuple(x[index] if i in at else x for i, x in enumerate(inputs))
    return short, full


def hoist(model: nn.Module, inputs: tuple[Tensor, ...], names: Sequence[str], **options: Any) -> recfx.CompiledModel:
    """The model with request inputs, without measurement."""
    settings = {"pipeline": EAGER_TO_SPLIT, "measure": False, **options}
    return recfx.optimize(model, example_inputs=inputs, request_inputs=names, **settings)
