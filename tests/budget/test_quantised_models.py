"""A model that is quantised already, under a budget."""

from __future__ import annotations

import pytest
import torch
from budget_kit import Clicks, batches, inputs
from native_kit import needs_kernels
from torch import Tensor, nn

import recfx
from recfx.errors import InputError

pytestmark = needs_kernels
BUDGET = recfx.Budget(max_drop=2e-3)


class Int8(nn.Module):
    """A model whose hidden layer holds int8 codes, as a loader of quantised checkpoints writes it."""

    def __init__(self, model: Clicks) -> None:
        super().__init__()
        self.model = model
        weight = model.second.weight.detach()
        scale = weight.abs().amax(1, keepdim=True) / 127
        self.register_buffer("codes", (weight / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)

    def forward(self, *given: Tensor) -> Tensor:
        whole = {"second.weight": self.codes.float() * self.scale}
        answer: Tensor = torch.func.functional_call(self.model, whole, given)
        return answer


class Around(nn.Module):
    """A module around a compiled model."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *given: Tensor) -> Tensor:
        answer: Tensor = self.inner(*given)
        return answer


def within(model: nn.Module) -> recfx.CompiledModel:
    metric = recfx.AUC(batches(Clicks()))
    return recfx.optimize(
        model.eval(), "native", example_inputs=inputs(8), evaluate=metric, budget=BUDGET, measure=False
    )


def int8() -> recfx.CompiledModel:
    return recfx.optimize(Clicks(), "native", example_inputs=inputs(8), precision="int8", measure=False)


def test_a_compiled_model_is_refused() -> None:
    with pytest.raises(InputError, match="compiled already") as caught:
        within(int8())
    assert caught.value.hint


@pytest.mark.parametrize("kind", ["int8 buffers", "around a compiled int8 model"])
def test_what_is_left_to_compress_is_compressed_within_the_budget(kind: str) -> None:
    model = Int8(Clicks()) if kind == "int8 buffers" else Around(int8())
    found = within(model).report.budget
    assert found is not None
    assert found.met, str(found)
    assert found.drop <= BUDGET.max_drop
    assert found.bytes[1] <= 1.1 * found.bytes[0]  # folded constants of the decompositions are a little larger
