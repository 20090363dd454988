"""Encoders with fast propagation give the values and gradients of plain encoders."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from recfx.learn.propagation import FastAdjacency, accelerate_propagation
from recfx.zoo import MODELS, Encoder


def value_and_gradients(model: Encoder) -> list[Tensor]:
    users, items = model.embeddings()
    model.zero_grad()
    ((users @ items.T).square().sum()).backward()
    return [users.detach(), items.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("name", ["lightgcn", "ngcf", "mf"])
def test_fast_encoders_are_the_plain_ones(name: str) -> None:
    torch.manual_seed(0)
    plain = MODELS[name].small(dim=20)
    assert isinstance(plain, Encoder)
    fast = accelerate_propagation(copy.deepcopy(plain))
    assert any(isinstance(module, FastAdjacency) for module in fast.modules()) == (name != "mf")
    for mine, its in zip(value_and_gradients(fast), value_and_gradients(plain), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-5)


def test_state_dicts_fit_both_ways() -> None:
    plain = MODELS["lightgcn"].small()
    fast = accelerate_propagation(MODELS["lightgcn"].small())
    assert fast.state_dict().keys() == plain.state_dict().keys()
    fast.load_state_dict(plain.state_dict())
    plain.load_state_dict(fast.state_dict())
    inputs = plain.example_inputs(5)
    torch.testing.assert_close(fast(*inputs), plain(*inputs))


def test_halving_is_near_and_can_be_switched_off() -> None:
    model = MODELS["lightgcn"].small(dim=32)
    assert isinstance(model, Encoder)
    exact = torch.cat(accelerate_propagation(model).embeddings()).detach()
    near = torch.cat(accelerate_propagation(model, halved=True).embeddings()).detach()
    assert not torch.equal(near, exact)
    assert float((near - exact).abs().max()) < 2**-7 * float(exact.abs().max())
    assert torch.equal(torch.cat(accelerate_propagation(model).embeddings()), exact)
