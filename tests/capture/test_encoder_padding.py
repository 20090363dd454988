"""Padding in `nn.TransformerEncoder`: compiled models give the results of torch's fast path, and a notice if they are
NaN."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import recfx
from recfx.capture.encoder_padding import attends, padded_with_zeros

FORMS = {
    "nested": {},
    "nested, with a norm at the end": {"norm": True},
    "nested, a mask of numbers": {"numbers": True},
    "not nested": {"nested": False},
    "norm first": {"first": True},
    "batch second": {"batch_first": False},
    "causal": {"causal": True},
}
#: Forms in which torch's fast path gives NaN for a row whose keys are all masked.
UNDEFINED = {"not nested", "norm first", "causal"}


class Encoder(nn.Module):
    def __init__(self, nested=True, norm=False, numbers=False, first=False, batch_first=True, causal=False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.batch_first, self.numbers, self.causal = batch_first, numbers, causal
        self.table = nn.Embedding(20, 16, padding_idx=0)
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=batch_first, norm_first=first)
        self.encoder = nn.TransformerEncoder(
            layer, 2, norm=nn.LayerNorm(16) if norm else None, enable_nested_tensor=nested and not first and batch_first
        )

    def forward(self, ids):
        hidden, padding = self.table(ids), ids == 0
        if self.numbers:
            padding = torch.zeros(ids.shape).masked_fill(padding, -torch.inf)
        hidden = hidden if self.batch_first else hidden.transpose(0, 1)
        mask = torch.ones(ids.shape[1], ids.shape[1]).triu(1).bool() if self.causal else None
        hidden = self.encoder(hidden, mask=mask, src_key_padding_mask=padding)
        return hidden if self.batch_first else hidden.transpose(0, 1)


def histories(*lengths: int) -> torch.Tensor:
    ids = torch.randint(1, 20, (len(lengths), 5), generator=torch.Generator().manual_seed(1))
    for row, length in enumerate(lengths):
        ids[row, length:] = 0
    return ids


@pytest.mark.filterwarnings("ignore:.*nested tensor")
@pytest.mark.parametrize("form", FORMS)
def test_a_compiled_encoder_gives_what_torch_gives_without_gradients(form: str) -> None:
    model = Encoder(**FORMS[form]).eval()
    compiled = recfx.optimize(model, example_inputs=(histories(5, 3, 2),), measure=False)
    for lengths in ((5, 4, 1), (2,), (0, 3), (0, 0, 5)):
        ids = histories(*lengths)
        with torch.no_grad():
            want = model(ids)
        found = compiled(ids)
        assert bool(found.isfinite().all())
        torch.testing.assert_close(found.where(want.isfinite(), 0.0), want.nan_to_num(), rtol=1e-4, atol=1e-4)
    told = [notice for notice in compiled.report.notices if "every key of a row is masked" in notice]
    assert bool(told) == (form in UNDEFINED)


@pytest.mark.filterwarnings("ignore:.*nested tensor")
def test_padding_at_the_front_is_not_filled() -> None:
    model = Encoder().eval()
    compiled = recfx.optimize(model, example_inputs=(histories(5, 3, 2),), measure=False)
    ids = histories(4, 3).flip(1)
    with torch.no_grad():
        torch.testing.assert_close(compiled(ids), model(ids), rtol=1e-4, atol=1e-4)


def test_the_forward_of_torch_is_put_back() -> None:
    own, enabled = nn.TransformerEncoder.forward, torch.backends.mha.get_fastpath_enabled()
    with padded_with_zeros(), padded_with_zeros():
        assert nn.TransformerEncoder.forward is not own
    assert nn.TransformerEncoder.forward is own
    assert torch.backends.mha.get_fastpath_enabled() is enabled


def test_models_with_attention_are_known() -> None:
    assert attends(Encoder())
    assert attends(nn.ModuleList([nn.MultiheadAttention(8, 2)]))
    assert not attends(nn.Linear(3, 3))
