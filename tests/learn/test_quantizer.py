"""The quantiser in every combination of estimator, bits and bounds."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from learn_kit import DIM, blocks, quantizers
from torch import Tensor

from recfx.errors import InputError
from recfx.learn import BITS, BOUNDS, ESTIMATORS, Bounds, QuantizedTable, Quantizer, make_quantizer


@given(x=blocks(), quantizer=quantizers())
def test_codes_and_values(x: Tensor, quantizer: Quantizer) -> None:
    quantizer(x)
    quantizer.eval()
    codes, found, grid = quantizer.codes(x), quantizer(x).detach(), quantizer.grid(x)
    lower, span = grid.lower.detach(), grid.span.detach()
    assert codes.dtype == torch.uint8
    assert int(codes.max()) <= quantizer.steps
    slack = 1e-6 * (lower.abs() + span)
    assert (found >= lower - slack).all()
    assert (found <= lower + span + slack).all()
    x_n = grid.x.detach().clamp(0, 1)
    assert ((x_n - codes / quantizer.steps).abs() <= 0.5 / quantizer.steps + 1e-6).all()
    torch.testing.assert_close(quantizer.table(x).dequantize(), found, rtol=1e-5, atol=float(slack.max()))
    assert torch.equal(quantizer.table(x).codes, codes)


@given(x=blocks(), quantizer=quantizers())
def test_values_are_their_own_rounding(x: Tensor, quantizer: Quantizer) -> None:
    """With bounds that stay, quantising twice changes no code."""
    quantizer(x)
    quantizer.eval()
    table = quantizer.table(x)
    again = Quantizer(quantizer.bits, _Fixed(table), quantizer.estimator).eval()
    assert torch.equal(again.codes(table.dequantize()), table.codes)


class _Fixed(Bounds):
    def __init__(self, table: QuantizedTable) -> None:
        super().__init__()
        lower = table.lower if table.centre is None else table.lower + table.centre
        self.ends = lower, lower + table.step * ((1 << table.bits) - 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.ends


@given(quantizer=quantizers(), value=st.sampled_from([0.0, 1.5, -3e-4, 1e6]), rows=st.integers(1, 5))
def test_a_constant_block_stays_what_it_is(quantizer: Quantizer, value: float, rows: int) -> None:
    x = torch.full((rows, DIM), value).requires_grad_()
    found = quantizer(x)
    found.sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert found.isfinite().all()
    if value == 0:
        assert found.abs().max() < 1e-20
    codes = quantizer.codes(x)
    assert (codes == codes[0, 0]).all()


@given(quantizer=quantizers(), training=st.booleans())
def test_an_empty_block(quantizer: Quantizer, training: bool) -> None:
    quantizer.train(training)
    x = torch.empty(0, DIM, requires_grad=True)
    assert quantizer(x).shape == (0, DIM)
    assert quantizer.codes(x).shape == (0, DIM)
    quantizer.train()(torch.randn(4, DIM, generator=torch.Generator().manual_seed(0)))
    quantizer(x).sum().backward()
    assert quantizer.table(x).codes.shape == (0, DIM)


@pytest.mark.parametrize("bounds", sorted(BOUNDS))
def test_nan_has_no_code(bounds: str) -> None:
    quantizer = make_quantizer(2, "ste", bounds, dim=3)
    quantizer(torch.eye(3))
    x = torch.eye(3)
    x[1, 2] = float("nan")
    with pytest.raises(InputError, match="row 1"):
        quantizer.eval().codes(x)
    assert quantizer(x)[1, 2].isnan()


@pytest.mark.parametrize("estimator", sorted(ESTIMATORS))
@pytest.mark.parametrize("bits", BITS)
def test_more_bits_less_error(estimator: str, bits: int) -> None:
    x = torch.randn(500, 16, generator=torch.Generator().manual_seed(0))
    quantizer = make_quantizer(bits, estimator)
    quantizer(x)
    error = float((quantizer.eval()(x) - x).square().mean())
    assert error < {1: 0.38, 2: 0.13, 4: 0.006, 8: 3e-5}[bits]


def test_what_is_no_matrix_of_floats() -> None:
    quantizer = make_quantizer(1)
    for wrong in (torch.ones(3), torch.ones(3, 0), torch.ones(3, 3, dtype=torch.int64)):
        with pytest.raises(InputError, match="matrix"):
            quantizer(wrong)


@pytest.mark.parametrize(
    "options",
    [
        {"bits": 3},
        {"estimator": "unknown"},
        {"bounds": "unknown"},
        {"estimator_options": {"speed": 1}},
        {"bounds_options": {"speed": 1}},
    ],
)
def test_options_that_do_not_fit(options: dict[str, object]) -> None:
    with pytest.raises(InputError):
        make_quantizer(**{"bits": 1, **options})  # type: ignore[arg-type]


def test_sizes_of_tables() -> None:
    x = torch.randn(10, 12, generator=torch.Generator().manual_seed(0))
    assert make_quantizer(1).table(x).packed_bytes() == 10 * 2 + 10 * 4
    assert make_quantizer(2).table(x).packed_bytes() == 10 * 3 + 10 * 4
    assert make_quantizer(4).table(x).packed_bytes() == 10 * 6 + 10 * 8
    sigma = make_quantizer(2, "ste", "sigma")
    sigma(x)
    assert sigma.table(x).packed_bytes() == 10 * 3 + 4
    extremes = make_quantizer(2, "ste", "ema-minmax")
    extremes(x)
    assert extremes.table(x).packed_bytes() == 10 * 3 + 8


@pytest.mark.parametrize(
    ("codes", "lower", "bits"),
    [
        (torch.zeros(2, 3), torch.zeros(()), 1),
        (torch.full((2, 3), 2, dtype=torch.uint8), torch.zeros(()), 1),
        (torch.zeros(2, 3, dtype=torch.uint8), torch.zeros(3, 1), 1),
        (torch.zeros(2, 3, dtype=torch.uint8), torch.zeros(()), 5),
    ],
)
def test_tables_that_do_not_fit_together(codes: Tensor, lower: Tensor, bits: int) -> None:
    with pytest.raises(InputError):
        QuantizedTable(codes, lower, lower, bits)
