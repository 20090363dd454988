"""Quantising in blocks of rows equals quantising the whole table."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from learn_kit import blocks, quantizers, seeds
from torch import Tensor

from recfx.learn import HessianScaled, Quantizer, make_quantizer


def _run(quantizer: Quantizer, x: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    quantizer.zero_grad()
    leaf = x.clone().requires_grad_()
    found = quantizer(leaf)
    found.backward(upstream)
    assert leaf.grad is not None
    return found.detach(), leaf.grad, [p.grad.clone() for p in quantizer.parameters() if p.grad is not None]


@given(x=blocks(), quantizer=quantizers(), seed=seeds(), rows=st.integers(1, 20))
def test_blocks_change_nothing(x: Tensor, quantizer: Quantizer, seed: int, rows: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    upstream = torch.randn(x.shape, generator=generator)
    if isinstance(quantizer.estimator, HessianScaled):
        quantizer.estimator.set_delta(0.5)
    quantizer(x)
    quantizer.eval()
    whole = _run(quantizer, x, upstream)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recfx.learn._blocks._LEAST_VALUES", 0)
        patch.setattr("recfx.learn._blocks._BLOCK_VALUES", rows * x.shape[1])
        parts = _run(quantizer, x, upstream)
    assert torch.equal(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])
    for found, want in zip(parts[2], whole[2], strict=True):
        torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4)


def test_a_delta_changed_before_the_backward_pass_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for least in (0, 1 << 60):
        monkeypatch.setattr("recfx.learn._blocks._LEAST_VALUES", least)
        quantizer = make_quantizer(1, "gste")
        found = quantizer(torch.randn(4, 4, generator=torch.Generator().manual_seed(0), requires_grad=True))
        assert isinstance(quantizer.estimator, HessianScaled)
        quantizer.estimator.set_delta(0.5)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            found.sum().backward()


def test_bounds_moved_before_the_backward_pass_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with one quantiser for two blocks of a step."""
    gradients = []
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    for least in (0, 1 << 60):
        monkeypatch.setattr("recfx.learn._blocks._LEAST_VALUES", least)
        quantizer = make_quantizer(1, "ste", "sigma", bounds_options={"momentum": 0.0})
        leaf = x.clone().requires_grad_()
        found = quantizer(leaf)
        quantizer(x * 100)
        found.sum().backward()
        gradients.append(leaf.grad)
    assert gradients[0] is not None
    assert gradients[1] is not None
    assert torch.equal(gradients[0], gradients[1])
