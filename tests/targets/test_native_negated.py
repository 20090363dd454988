"""Negated views: tensors whose memory holds the negative of their numbers, as the imaginary part of a conjugated tensor does."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import recfx
from recfx.zoo import DLRM


class _Between(nn.Module):
    """A part that stays with torch hands a negated view to the kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.fft.fft(x).conj().imag.relu())


def _negated(numbers: torch.Tensor) -> torch.Tensor:
    """The numbers as a contiguous view of their negative."""
    view: torch.Tensor = torch._neg_view(-numbers)  # type: ignore[attr-defined]
    assert view.is_neg()
    assert view.is_contiguous()
    return view


@pytest.mark.parametrize("rows", [1, 2, 33])
def test_negated_inputs(rows: int) -> None:
    torch.manual_seed(0)
    model = DLRM([50] * 3, 5, 8, bottom=(8,), top=(8,)).eval()
    fast = recfx.optimize(model, example_inputs=model.example_inputs(4), measure=False)
    dense, *others = model.example_inputs(rows)
    for given in (dense, _negated(dense), torch.complex(dense, -dense).conj().imag):
        torch.testing.assert_close(fast(given, *others), model(dense, *others))


@pytest.mark.parametrize("rows", [1, 2, 33])
def test_a_negated_view_between_regions(rows: int) -> None:
    torch.manual_seed(0)
    model = _Between().eval()
    fast = recfx.optimize(model, example_inputs=(torch.randn(4, 4),), measure=False)
    x = torch.randn(rows, 4)
    torch.testing.assert_close(fast(x), model(x))
