"""Operators of torch that models are captured with may be saved and loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import recfx
from recfx.ir.operators import ATEN

WIDE = torch.tensor([3.0, -1.0, 0.5])

#: Functions of a matrix `x` of positive numbers, ids `i` and a square matrix of the state.
FUNCTIONS: dict[str, list[Callable[..., Any]]] = {
    "ids": [
        lambda m, x, i: torch.isin(i, torch.tensor([1, 3])),
        lambda m, x, i: torch.bucketize(x, WIDE.sort()[0]),
        lambda m, x, i: F.one_hot(i, 9).sum(1),
        lambda m, x, i: torch.bincount(i.flatten(), minlength=9),
    ],
    "activations": [
        lambda m, x, i: F.rrelu(x - 1),
        lambda m, x, i: F.threshold(x, 0.1, 2.0) + F.softmin(x, 1),
        lambda m, x, i: F.glu(torch.cat([x, x], 1)) + F.hardshrink(x) + F.logsigmoid(x),
    ],
    "numbers": [
        lambda m, x, i: torch.special.i0e(x) + torch.special.gammainc(x, x + 1) + torch.special.zeta(x + 1.5, x),
        lambda m, x, i: torch.complex(x, x).abs() + torch.polar(x, x).real + torch.fft.fft(x).abs(),
        lambda m, x, i: torch.mvlgamma(x + 3, 2) + torch.polygamma(1, x),
        lambda m, x, i: torch.trapezoid(x, dim=1) + torch.cumulative_trapezoid(x, dim=1)[:, -1],
    ],
    "matrices": [
        lambda m, x, i: torch.linalg.eigvalsh(m.w @ m.w.t()) + torch.linalg.svdvals(m.w),
        lambda m, x, i: torch.argwhere(m.w > 0) + torch.histogram(m.w, 3)[0].sum(),
        lambda m, x, i: torch.renorm(x, 2, 0, 0.5) + torch.linalg.diagonal(m.w),
        lambda m, x, i: torch.linalg.matrix_rank(m.w) + torch.linalg.cond(m.w),
    ],
    "layers": [
        lambda m, x, i: F.channel_shuffle(x[:, :2, None, None], 2),
        lambda m, x, i: F.grid_sample(
            x[:, None, None].expand(-1, 1, 3, 3), torch.zeros(x.shape[0], 2, 2, 2), align_corners=False
        ),
        lambda m, x, i: F.avg_pool3d(x[:, None, None, None].expand(-1, 1, 3, 3, 3), 2),
        lambda m, x, i: F.multi_margin_loss(x, i[:, 0] % 3, reduction="none"),
    ],
}


class Model(nn.Module):
    def __init__(self, functions: list[Callable[..., Any]]) -> None:
        super().__init__()
        self.functions = functions
        self.w = nn.Parameter(torch.eye(3) + 0.1)

    def forward(self, x: torch.Tensor, i: torch.Tensor) -> list[Any]:
        return [function(self, x, i) for function in self.functions]


@pytest.mark.parametrize("family", FUNCTIONS)
def test_operators_of_models_may_be_saved(family: str, tmp_path: Path) -> None:
    model = Model(FUNCTIONS[family]).eval()
    x, i = torch.rand(6, 3) + 0.1, torch.randint(0, 9, (6, 2))
    recfx.optimize(model, example_inputs=(x, i), measure=False, verify="off").save(tmp_path / "model")
    for want, got in zip(model(x, i), recfx.load(tmp_path / "model")(x, i), strict=True):
        torch.testing.assert_close(got, want)


def test_operators_without_checks_are_not_listed() -> None:
    """Each of these writes, reads files, or trusts an index, a pivot or a size that it is given."""
    unchecked = """
    from_file embedding_renorm_ _convolution linalg_lu_solve lu_solve _embedding_bag _index_put_impl_ _segment_reduce_backward
    resize set_ _nested_view_from_buffer _cufft_set_plan_cache_max_size _foreach_add quantize_per_tensor sparse_coo_tensor
    _unsafe_index _unsafe_masked_index save _print _scaled_mm _weight_int8pack_mm _fused_rms_norm
    """
    assert not ATEN & set(unchecked.split())
