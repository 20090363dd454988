"""Views of modules share state with the module; attributes that are added to a view do not reach the module."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from recfx.capture.module_view import module_view, set_forward


class Doubled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = parametrizations.weight_norm(nn.Linear(3, 2))
        self.register_buffer("shift", torch.ones(2))

    def forward(self, x: Tensor, scale: float) -> Tensor:
        result: Tensor = self.linear(x) * scale + self.shift
        return result


def test_a_view_shares_state_and_has_a_forward_of_its_own() -> None:
    model = Doubled()
    view = module_view(model, {"scale": torch.tensor(2.0)})

    def forward(x: Tensor) -> Tensor:
        return type(model).forward(view, x, view.scale)  # type: ignore[arg-type]

    signature = inspect.signature(forward)
    set_forward(view, forward, signature)
    x = torch.randn(4, 3)
    assert torch.equal(view(x), model(x, 2.0))
    assert inspect.signature(view.forward) == signature
    assert dict(view.named_parameters()).keys() == dict(model.named_parameters()).keys()
    with torch.no_grad():
        model.linear.bias.add_(1)
    assert torch.equal(view(x), model(x, 2.0))


def test_buffers_of_a_view_stay_there() -> None:
    model = Doubled()
    view = module_view(model, {"scale": torch.tensor(2.0)})
    assert "scale" in dict(view.named_buffers())
    assert "scale" not in view.state_dict()
    assert "scale" not in dict(model.named_buffers())
    view.shift = torch.zeros(2)
    assert torch.equal(model.shift, torch.ones(2))


def test_modules_that_refuse_to_be_copied_have_views() -> None:
    model = parametrizations.weight_norm(nn.Linear(3, 2))
    x = torch.randn(4, 3)
    assert torch.equal(module_view(model)(x), model(x))
