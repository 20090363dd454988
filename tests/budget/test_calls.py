"""Calls with inputs in the form of `example_inputs`, of the user's model and of a compiled one."""

from __future__ import annotations

import torch
from models import TinyCtr, tiny_inputs
from torch import Tensor, nn

import recfx
from recfx.budget.calls import call


class OneDict(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 4)
        self.eval()

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        return self.table(features["user"]).sum(1) + features["age"]


def test_the_same_inputs_for_both_models() -> None:
    model, given = TinyCtr(), tiny_inputs(6)
    fast = recfx.optimize(model, "eager", example_inputs=given, measure=False)
    named = dict(zip(("dense", "sparse"), given, strict=True))
    want = model(*given)
    for inputs in (given, list(given), named):
        torch.testing.assert_close(call(model, inputs), want)
        torch.testing.assert_close(call(fast, inputs), want)
        torch.testing.assert_close(call(fast, inputs, lambda m, *a, **k: m(*a, **k) * 2), want * 2)


def test_a_dict_that_is_the_one_argument() -> None:
    model = OneDict()
    features = {"user": torch.tensor([1, 2, 3]), "age": torch.ones(3)}
    fast = recfx.optimize(model, "eager", example_inputs=features, measure=False)
    torch.testing.assert_close(call(fast, features), call(model, features))


def test_any_callable() -> None:
    assert call(lambda x, y: x + y, (1, 2)) == 3
    assert call(lambda x: x, 4) == 4
