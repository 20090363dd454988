"""The limits of the tolerance, each tested on both sides."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from recfx.errors import VerificationError
from recfx.ir.tolerance import _is_meant, check_nan, check_reassociated, is_within_last_bits, largest

INF, NAN = float("inf"), float("nan")
EPS, TINY = torch.finfo(torch.float32).eps, torch.finfo(torch.float32).tiny


def judge(want: list[float], got: list[float], truth: list[float], **options: object) -> bool:
    """Whether a result is within the tolerance."""
    given = [torch.tensor(values, dtype=torch.float64) for values in (want, got, truth)]
    try:
        check_reassociated(given[0].float(), given[1].float(), given[2], "a test", **options)  # type: ignore[arg-type]
    except VerificationError:
        return False
    return True


@pytest.mark.parametrize(
    ("want", "truth", "meant"),
    [
        (1.0, 1.0, True),
        (1.005, 1.0, True),
        (0.995, 1.0, True),
        (1.015, 1.0, False),
        (0.985, 1.0, False),
        (2.0, 1.0, False),
        (-1.005, -1.0, True),
        (-1.0, 1.0, False),
        (1e30, 1.005e30, True),
        (1e30, 1e34, False),
        (0.0, 0.0, True),
        (0.0, 1e-3, False),
        (1e-3, 0.0, False),
        (NAN, NAN, True),
        (NAN, 1.0, False),
        (1.0, NAN, False),
        (INF, INF, True),
        (INF, -INF, False),
        (INF, 1e60, True),
        (1.0, INF, False),
        (INF, 1.0, False),
    ],
)
def test_a_result_is_meant_to_a_hundredth(want: float, truth: float, meant: bool) -> None:
    found = _is_meant(torch.tensor([want]), torch.tensor([truth], dtype=torch.float64))
    assert found.tolist() == [meant]


def test_rounding_alone_is_not_judged_where_it_may_be_all_there_is() -> None:
    want, got, truth = [1.5, 2.0], [-7.0, 2.0], [1.0, 2.0]
    assert judge(want, got, truth, noise=True)
    assert not judge(want, got, truth)
    assert not judge([1.5, 2.0], [-7.0, 2.1], [1.0, 2.0], noise=True)
    assert judge([NAN, 2.0], [3.0, 2.0], [1.0, 2.0], noise=True)
    assert not judge([1.0, 2.0], [NAN, 2.0], [1.0, 2.0], noise=True)


@pytest.mark.parametrize("sign", [1, -1])
def test_eight_times_the_error_of_the_original(sign: int) -> None:
    for times, allowed in ((7.9, True), (8.1, False)):
        assert judge([1.0, 1.001], [1.0, 1 + sign * times * 1e-3], [1.0, 1.0]) is allowed
        assert judge([1.0, 1.001], [1.0, 1 + sign * 3 * times * 1e-3], [1.0, 1.0], slack=3.0) is allowed


@pytest.mark.parametrize("scale", [1.0, 2.0**60, 2.0**-60])
def test_sixteen_last_bits_of_the_largest_result(scale: float) -> None:
    for bits, allowed in ((15, True), (18, False)):
        assert judge([scale, scale / 4], [scale, scale / 4 + bits * EPS * scale], [scale, scale / 4]) is allowed
        assert judge([-scale, scale / 4], [-scale, scale / 4 + bits * EPS * scale], [-scale, scale / 4]) is allowed
        assert judge([scale], [scale * (1 + 2 * bits * EPS)], [scale], slack=2.0) is allowed


def test_sixteen_times_the_smallest_normal_number() -> None:
    for times, allowed in ((15, True), (17, False)):
        assert judge([0.0], [times * TINY], [0.0]) is allowed
        assert judge([0.0], [2 * times * TINY], [0.0], slack=2.0) is allowed


def test_eight_times_what_rounding_can_do() -> None:
    spread = torch.tensor([1e-3, 0.0])
    asked: list[int] = []

    def given() -> torch.Tensor:
        asked.append(1)
        return spread

    for times, allowed in ((7.9, True), (8.1, False)):
        got = [1 + times * 1e-3, 1.0]
        assert judge([1.0, 1.0], got, [1.0, 1.0], spread=given) is allowed
        assert judge([1.0, 1.0], got[::-1], [1.0, 1.0], spread=given) is allowed  # the largest of all
        assert judge([1.0, 1.0], [1 + 2 * times * 1e-3, 1.0], [1.0, 1.0], spread=given, slack=2.0) is allowed
        assert judge([1.0, 1.0], got, [1.0, 1.0], spread=given, by_row=True) is allowed
    assert not judge([1.0, 1.0], [1.0, 1.007], [1.0, 1.0], spread=given, by_row=True)
    asked.clear()
    assert judge([1.0, 1.0], [1.0, 1.0 + EPS], [1.0, 1.0], spread=given)
    assert not asked  # the spread needs a run, which a good result does not need
    # Rounding at positions that are not checked gives no tolerance at other positions.
    assert not judge([NAN, 1.0], [NAN, 1.005], [NAN, 1.0], spread=lambda: torch.tensor([1.0, 0.0]))


def test_a_spread_does_not_lessen_what_is_allowed() -> None:
    assert judge([1.0, 1.001], [1.0, 1.0079], [1.0, 1.0], spread=lambda: torch.zeros(2))


def test_an_original_that_overflows_is_held_to_float64() -> None:
    assert judge([INF, 1.0], [2.0, 1.0], [2.0, 1.0])
    assert judge([INF, 1.0], [INF, 1.0], [2.0, 1.0])
    assert not judge([INF, 1.0], [3.0, 1.0], [2.0, 1.0])
    # If float64 has no finite result, a finite result of the original is the reference.
    assert judge([2.0, 1.0], [2.0, 1.0], [INF, 1.0])
    assert not judge([2.0, 1.0], [3.0, 1.0], [INF, 1.0])


def test_the_message_names_the_worst_place_and_both_numbers() -> None:
    want = torch.tensor([[1.0, 1.0], [4.0, 4.0]])
    got = want.clone()
    got[0, 1], got[1, 0] = 1.25, 4.5
    with pytest.raises(
        VerificationError, match=r"the error against float64 is 0\.5, more than the 7\.63e-06 that a reordering"
    ) as caught:
        check_reassociated(want, got, want.double(), "output 3")
    assert caught.value.where == "output 3"
    got[1, 0] = 4.0
    with pytest.raises(VerificationError, match=r"is 0\.25, more than the 1\.91e-06 that a reordering"):
        check_reassociated(want, got, want.double(), "output 3", by_row=True)


def test_a_lost_nan_is_found_where_float64_has_it_too() -> None:
    for want, got, truth, lost in (
        (NAN, 1.0, NAN, True),
        (NAN, NAN, NAN, False),
        (NAN, 1.0, 1.0, False),
        (1.0, 1.0, NAN, False),
    ):
        given = (torch.tensor([0.0, want]), torch.tensor([0.0, got]), torch.tensor([0.0, truth], dtype=torch.float64))
        if lost:
            with pytest.raises(VerificationError, match="a NaN went away"):
                check_nan(*given, "a test")
        else:
            check_nan(*given, "a test")


def test_the_largest_of_rows_and_of_all() -> None:
    cube = torch.arange(12.0).reshape(2, 3, 2)
    assert largest(cube, True).tolist() == [[[5.0]], [[11.0]]]
    assert largest(cube[:, :, 0], True).tolist() == [[4.0], [10.0]]
    assert largest(cube[0, 0], True).tolist() == [0.0, 1.0]
    assert largest(torch.tensor(3.0), True).tolist() == 3.0
    assert largest(cube, False).tolist() == 11.0
    for empty in (torch.empty(0, 3), torch.empty(0)):
        assert largest(empty, True).tolist() == largest(empty, False).tolist() == 0.0


_numbers = st.floats(-1e6, 1e6, width=32) | st.sampled_from([0.0, 1.0, -1e-30, 1e30, TINY])


@settings(deadline=None)
@given(st.data(), st.sampled_from([1.0, 8.0]), st.booleans())
def test_what_is_accepted_without_the_float64_result_is_accepted_with_any(
    data: st.DataObject, slack: float, by_row: bool
) -> None:
    want = data.draw(st.lists(_numbers, min_size=4, max_size=4))
    scale = max(map(abs, want))
    moves = st.floats(-20.0 * slack, 20.0 * slack)
    got = [one + data.draw(moves) * EPS * scale for one in want]
    truth = [one + data.draw(_numbers | st.sampled_from([0.0, INF, NAN])) for one in want]
    made = [torch.tensor(values, dtype=torch.float64).reshape(2, 2) for values in (want, got, truth)]
    assume(is_within_last_bits(made[0].float(), made[1].float(), slack=slack, by_row=by_row))
    check_reassociated(made[0].float(), made[1].float(), made[2], "a test", slack=slack, by_row=by_row)


@pytest.mark.parametrize(("bits", "within"), [(15.0, True), (17.0, False), (INF, False), (NAN, False)])
@pytest.mark.parametrize("by_row", [False, True])
def test_the_last_bits_of_the_largest_number_need_no_float64_result(bits: float, within: bool, by_row: bool) -> None:
    want = torch.tensor([[1.0, 4.0], [0.5, 2.0]])
    got = want.clone()
    got[0, 0] += bits * EPS * 4
    assert is_within_last_bits(want, got, slack=1.0, by_row=by_row) == within
    got, want = want.clone(), want.clone()
    got[1, 0] += bits * EPS * 2
    assert is_within_last_bits(want, got, slack=1.0, by_row=by_row) == (within or (not by_row and bits == 17.0))
