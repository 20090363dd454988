"""The allowed difference of two programs: the bounds of each exactness class, and the compared batches."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import pytest
import torch

import recfx
from recfx.errors import VerificationError
from recfx.ir import Exactness, Program, verify_numeric
from recfx.ir.numeric import compare_outputs, require_refusal
from recfx.ir.probes import probes
from recfx.ir.tolerance import check_reassociated
from recfx.testing import GraphBuilder

aten = torch.ops.aten
TRUTH = torch.linspace(1.0, 2.0, 64, dtype=torch.float64)
OLD_ERROR = 1e-3
WANT = (TRUTH + OLD_ERROR).float()


def compare(got: torch.Tensor, exactness: Exactness = Exactness.REASSOC, want: torch.Tensor = WANT) -> None:
    compare_outputs([want], [got], exactness, "inputs", lambda: [TRUTH])


@pytest.mark.parametrize("times", [0.0, 1.0, 7.0, -7.0])
def test_an_error_of_a_few_times_the_old_one_is_a_reordering(times: float) -> None:
    compare((TRUTH + times * OLD_ERROR).float())


@pytest.mark.parametrize("times", [10.0, -10.0, 20.0, 100.0, 700.0])
def test_a_larger_error_is_none(times: float) -> None:
    with pytest.raises(recfx.VerificationError, match="reordering of sums"):
        compare((TRUTH + times * OLD_ERROR).float())


def test_without_an_error_of_the_old_program_a_few_last_bits_are_left() -> None:
    exact = TRUTH.float()
    compare(exact * (1 + 4 * torch.finfo(torch.float32).eps), want=exact)
    with pytest.raises(recfx.VerificationError, match="reordering of sums"):
        compare(exact * (1 + 200 * torch.finfo(torch.float32).eps), want=exact)


@pytest.mark.parametrize("exactness", list(Exactness))
def test_a_new_nan_a_shape_and_a_type_are_found_in_every_class(exactness: Exactness) -> None:
    broken = WANT.clone()
    broken[3] = float("nan")
    for got in (broken, WANT[:-1], WANT.double()):
        with pytest.raises(recfx.VerificationError):
            compare(got, exactness)
    with pytest.raises(recfx.VerificationError, match="outputs instead of"):
        compare_outputs([WANT], [], exactness, "inputs", lambda: [TRUTH])


def test_an_exact_pass_keeps_every_bit() -> None:
    compare(WANT.clone(), Exactness.EXACT)
    with pytest.raises(recfx.VerificationError, match="exact"):
        compare(torch.nextafter(WANT, torch.tensor(9.0)), Exactness.EXACT)
    compare(WANT + 1.0, Exactness.APPROX)


@pytest.mark.parametrize(
    ("outputs", "refused"),
    [
        ([torch.ones(0, 3)], True),
        ([torch.ones(0, 3), torch.ones(2)], False),
        ([torch.ones(1)], False),
        ([3], False),
        ([], False),
    ],
)
def test_what_the_original_refuses_may_give_no_elements(outputs: list[object], refused: bool) -> None:
    """torch refuses to reshape no elements to `[0, -1]`; a rewrite may remove the reshape."""
    accepted = nullcontext() if refused else pytest.raises(VerificationError, match="now pass: no rows")
    with accepted:
        require_refusal(lambda leaves: outputs, (), "inputs", "no rows")


def test_a_refusal_of_any_kind_is_one() -> None:
    def refuse(leaves: Sequence[object]) -> None:
        raise IndexError

    require_refusal(refuse, (), "inputs", "no rows")


def wrong_at(rows: Sequence[int]) -> tuple[Program, Program]:
    """A program, and a program whose error depends on the batch: the product of the batch's distances from some
    sizes."""
    made = []
    for off in (False, True):
        b = GraphBuilder({"x": ("batch", 3)})
        x = b.inputs["x"]
        if off:
            ones = b.call(aten.ones_like.default, b.call(aten.slice.Tensor, x, 1, 0, 1))
            count = b.call(aten.sum.dim_IntList, ones, [0, 1])
            product = b.call(aten.sub.Tensor, count, rows[0])
            for size in rows[1:]:
                product = b.call(aten.mul.Tensor, product, b.call(aten.sub.Tensor, count, size))
            x = b.call(aten.add.Tensor, x, product)
        made.append(b.build(b.call(aten.mul.Tensor, x, 2.0), batch=4))
    return made[0], made[1]


def test_other_sizes_than_the_example_are_compared() -> None:
    """A program is found if it is right only at the example's batch, or only there and at one row."""
    for sizes in ((4,), (4, 1), (4, 2)):
        with pytest.raises(recfx.VerificationError):
            verify_numeric(*wrong_at(sizes), Exactness.EXACT)
    before, _ = wrong_at((4,))
    rows = {int(leaves[0].shape[0]) for _, leaves in probes(before)}
    assert {1, 2} <= rows
    assert len(rows) >= 4


_TYPES = (torch.float32, torch.float64, torch.float32)
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("want", "got", "message"),
    [
        ([[NAN, 1.0], [2.0, 3.0]], [[NAN, NAN], [2.0, 3.0]], None),  # a NaN spread in its row
        ([[NAN, 1.0], [2.0, 3.0]], [[NAN, 1.0], [2.0, NAN]], "a NaN appeared"),
        ([[NAN, 1.0], [2.0, 3.0]], [[0.0, 1.0], [2.0, 3.0]], "a NaN went away"),
        ([[NAN, 1.0], [2.0, 3.0]], [[NAN, INF], [2.0, 3.0]], "infinities or NaNs appeared"),
        ([[NAN, 1.0], [2.0, 3.0]], [[NAN, 1.5], [2.0, 3.0]], "the error against float64"),
    ],
)
def test_other_kernels_may_spread_a_nan_in_its_row_alone(
    want: list[list[float]], got: list[list[float]], message: str | None
) -> None:
    right, judged = torch.tensor(want), torch.tensor(got)
    truth = lambda: [right.double()]  # noqa: E731
    arguments = ([right], [judged], Exactness.REASSOC, "rows with zeros and NaN", truth)
    if message is None:
        compare_outputs(*arguments, special=True, kernels=True)
        return
    with pytest.raises(VerificationError, match=message):
        compare_outputs(*arguments, special=True, kernels=True)


@pytest.mark.parametrize(
    ("want", "truth", "got", "wrong"),
    [
        (1.0, 1.0, 1.5, True),  # the original is right
        (4e10, 3e4, 1e9, False),  # the original is rounding alone
        (1.0, 1.0, INF, True),
        (2.0, 1.0, 100.0, False),  # the error of the original is as large as its result
        (1.005, 1.0, 1.5, True),
        (1.0, INF, INF, False),  # float64 overflows like the judged result
        (NAN, NAN, 0.0, True),
        (INF, 1e39, 3e38, True),
    ],
)
def test_rows_of_huge_numbers_are_judged_where_the_original_is_right(
    want: float, truth: float, got: float, wrong: bool
) -> None:
    right, exact, judged = (torch.tensor([[v]], dtype=d) for v, d in zip((want, truth, got), _TYPES, strict=True))
    check = lambda: check_reassociated(right, judged, exact, "here", by_row=True, noise=True)  # noqa: E731
    if not wrong:
        check()
        return
    with pytest.raises(VerificationError):
        check()
