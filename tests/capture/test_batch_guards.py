"""Guards of a trace about the batch."""

from __future__ import annotations

import pytest
import sympy
import torch
from torch import nn
from torch.utils._sympy.functions import FloorDiv, Mod

from recfx.capture.batch_guards import _divisor, divisor_of_batch

S = sympy.Symbol("s0", positive=True, integer=True)
T = sympy.Symbol("s1", positive=True, integer=True)


@pytest.mark.parametrize(
    ("guard", "step"),
    [
        (sympy.Eq(Mod(S, 3), 0), 3),
        (sympy.Eq(Mod(16 * S, 48), 0), 3),
        (sympy.Eq(Mod(6 * S, 4), 0), 2),
        (sympy.Eq(Mod(S, 3), 1), 1),
        (sympy.Ne(Mod(S, 3), 0), 1),
        (sympy.Eq(Mod(S + 1, 3), 0), 1),
        (sympy.Eq(Mod(S * T, 3), 0), 1),
        (sympy.Eq(Mod(S, T), 0), 1),
        (sympy.Eq(Mod(FloorDiv(S, FloorDiv(S, 3)), 3), 0), 1),
        (sympy.Eq(S, 3), 1),
    ],
)
def test_the_divisor_of_a_guard(guard: sympy.Basic, step: int) -> None:
    assert _divisor(guard) == step


class Folded(nn.Module):
    """Rows [B, 2], B divisible by 2 and by 3."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.view(-1, 4).sum(1)[:, None] + rows.view(-1, 6).sum()


def test_the_divisor_in_an_error_of_export() -> None:
    dim = {0: torch.export.Dim("batch", min=1, max=100)}
    with pytest.raises(Exception, match="Constraints violated") as caught:
        torch.export.export(Folded(), (torch.randn(12, 2),), dynamic_shapes=(dim,))
    assert divisor_of_batch(caught.value) == 6
    assert divisor_of_batch(ValueError("no guards")) == 1
