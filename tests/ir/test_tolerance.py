"""Allowed differences of results: from the magnitude of the summands, row by row, and without float64."""

from __future__ import annotations

import operator

import pytest
import torch
from bag_models import generator
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import recfx
from recfx.capture import capture
from recfx.errors import VerificationError
from recfx.ir import Exactness
from recfx.ir.numeric import compare_outputs
from recfx.ir.reference_run import Reference
from recfx.ir.tolerance import check_reassociated
from recfx.testing import GraphBuilder


class OneField(nn.Module):
    """A factorisation machine over one field: the square of the sum minus the sum of squares, which is 0."""

    def forward(self, x):
        return ((x.sum(1) + 0.1) ** 2 - (x**2).sum(1) - 0.2 * x.sum(1)).sum(1)


class Difference(nn.Module):
    """A difference of equal values, and a number that is not small."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 8)

    def forward(self, x):
        y = self.linear(x)
        return torch.cat([y - self.linear(x), y[:, :1] * 0], 1)


@pytest.mark.parametrize(
    ("model", "shape"), [(OneField(), (5, 1, 8)), (Difference(), (5, 16))], ids=["fm", "difference"]
)
def test_noise_beside_exact_zeros_is_allowed_by_what_was_summed(model: nn.Module, shape: tuple[int, ...]) -> None:
    inputs = (torch.randn(shape, generator=generator(0)) * 3,)
    program = capture(model.eval(), inputs)
    (want,) = program.run(inputs)
    noise = want + 4e-6 * torch.randn(want.shape, generator=generator(1)).sign()
    reference = Reference(program, inputs)
    compare_outputs([want], [noise], Exactness.REASSOC, "a test", reference)
    with pytest.raises(VerificationError, match="reordering"):
        compare_outputs([want], [want + 4e-3], Exactness.REASSOC, "a test", reference)


@given(seed=st.integers(0, 2**16), row=st.integers(0, 5))
def test_a_row_of_huge_numbers_does_not_excuse_the_others(seed: int, row: int) -> None:
    want = torch.randn(6, 4, generator=generator(seed))
    want[row] *= 1e30
    got = want * (1 + torch.finfo(torch.float32).eps)
    check_reassociated(want, got, want.double(), "a test", by_row=True)
    got[(row + 1) % 6] += 1e-2
    with pytest.raises(VerificationError, match="reordering"):
        check_reassociated(want, got, want.double(), "a test", by_row=True)


INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize("other", [INF, -INF, NAN])
@pytest.mark.parametrize("by_row", [True, False])
def test_an_element_that_is_not_finite_does_not_excuse_small_ones(other: float, by_row: bool) -> None:
    want, got = torch.tensor([[other, 1e-12]]), torch.tensor([[other, 3e-12]])
    check_reassociated(want, want, want.double(), "a test", by_row=by_row)
    with pytest.raises(VerificationError, match="reordering"):
        check_reassociated(want, got, want.double(), "a test", by_row=by_row)


@pytest.mark.parametrize(
    ("want", "got", "truth", "allowed"),
    [
        (NAN, NAN, NAN, True),
        (INF, NAN, INF, True),
        (NAN, 1.0, NAN, False),
        (INF, 1.0, INF, False),
        (1.0, NAN, 1.0, False),
        (1.0, INF, 1.0, False),
        (NAN, INF, 1e60, True),  # overflows in float32 alone
        (NAN, 0.5, 0.5, True),
        (NAN, 0.0, 0.5, False),
    ],
)
def test_what_is_not_finite(want: float, got: float, truth: float, allowed: bool) -> None:
    given = (torch.tensor([want, 1.0]), torch.tensor([got, 1.0]), torch.tensor([truth, 1.0], dtype=torch.float64))
    if allowed:
        check_reassociated(*given, "a test", by_row=True)
        return
    with pytest.raises(VerificationError):
        check_reassociated(*given, "a test", by_row=True)


@torch.library.custom_op("recfx_tests::float32_only", mutates_args=())
def float32_only(x: torch.Tensor) -> torch.Tensor:
    if x.dtype is not torch.float32:
        raise NotImplementedError("float32_only has no float64")
    return x * 2


@float32_only.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


class Narrow(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 4)

    def forward(self, x):
        return self.linear(float32_only(self.linear.weight.sum() + x))


def test_an_operator_without_float64_is_checked_in_float32_with_a_notice() -> None:
    torch.manual_seed(0)
    model = Narrow().eval()
    x = torch.randn(5, 8, generator=generator(0))
    fast = recfx.optimize(model, example_inputs=x, measure=False)
    with torch.no_grad():
        assert torch.allclose(fast(x), model(x), atol=1e-5)
    program = capture(model, (x,))
    reference = Reference(program, (x,))
    (want,) = program.run((x,))
    compare_outputs([want], [want * (1 + 2e-7)], Exactness.REASSOC, "a test", reference)
    assert reference.refusal is None, "results that are equal but for last bits need no float64 result"
    with pytest.raises(VerificationError):
        compare_outputs([want], [want * 1.001], Exactness.REASSOC, "a test", reference)
    assert reference.refusal is not None


def test_rounding_inside_an_operator_of_the_dialect_counts() -> None:
    """Fields that cancel leave the rounding error of their squares, which is not an error of the lowered program."""
    b = GraphBuilder({"x": ("batch", 3, 4)})
    program = b.build(b.call(torch.ops.recfx.fm.default, b.inputs["x"], False))
    x = torch.zeros(2, 3, 4)
    x[:, 0] = torch.randn(2, 4)
    spread = Reference(program, (x,)).spread(0)
    largest_square = float((x**2).max())
    assert 1e-8 * largest_square < float(spread.max()) < 1e-5 * largest_square


def test_rounding_of_a_mean_counts_where_a_norm_magnifies_it() -> None:
    """Three equal numbers: the error of their mean is in every result, and in the sum of the results, which is 0 otherwise."""
    b = GraphBuilder({"x": ("batch", 3)})
    normed = b.call(torch.ops.aten.layer_norm.default, b.inputs["x"], [3])
    program = b.build(b.call(torch.ops.aten.sum.dim_IntList, normed, [1]))
    spread = float(Reference(program, (torch.full((2, 3), 2.1),)).spread(0).max())
    magnified = 2.1 * torch.finfo(torch.float32).eps / 1e-5**0.5
    assert magnified < spread < 10 * magnified


@pytest.mark.parametrize("mode", [0, 1])
def test_rounding_of_partial_sums_of_a_bag_counts(mode: int) -> None:
    """A hundred numbers and their opposites: partial sums reach a hundred times the result's terms."""
    builder = GraphBuilder({"ids": (("batch", 200), torch.int64)})
    table = builder.state("table", torch.tensor([[0.7], [-0.7]]))
    flat = builder.call(torch.ops.aten.reshape.default, builder.inputs["ids"], [-1])
    offsets = builder.call(
        torch.ops.aten.arange.start_step, 0, builder.call(torch.ops.aten.sym_numel.default, flat), 200
    )
    bags = builder.call(
        torch.ops.aten.embedding_bag.padding_idx, table, flat, offsets, False, mode, False, None, False, None
    )
    program = builder.build(builder.call(operator.getitem, bags, 0))
    ids = torch.arange(200).div(100, rounding_mode="floor").repeat(2, 1)
    spread = float(Reference(program, (ids,)).spread(0).max())
    magnitude = 0.7 * 200 / (200 if mode else 1)
    assert spread >= magnitude * torch.finfo(torch.float32).eps / 2


def test_scores_of_nan_give_nan_in_the_reference_at_any_number_of_keys() -> None:
    b = GraphBuilder({"x": ("batch", 2, 4)})
    x = b.call(torch.ops.aten.unsqueeze.default, b.inputs["x"], 1)
    program = b.build(b.call(torch.ops.aten.scaled_dot_product_attention.default, x, x, x))
    leaf = torch.randn(3, 2, 4)
    leaf[1, 1, 2] = float("nan")
    (found,) = Reference(program, (leaf,))()
    assert found[1].isnan().all()
    assert not found[[0, 2]].isnan().any()
