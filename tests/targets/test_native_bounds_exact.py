"""The check of a plan's bounds is exact: a step reaches the elements that its operator reads and writes, and one more is an error."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch
from native_kit import needs_kernels

from recfx.errors import TargetError
from recfx.kernels.codes import Kind, Place
from recfx.targets.native.bounds import check_bounds
from recfx.targets.native.steps import Slot, Step, View

pytestmark = needs_kernels


def temp(width: int, *, once: bool = False) -> Slot:
    return Slot(Place.TEMP, torch.float32, width, once)


def step_of(kind: Kind, views: dict[int, View], out: View, ints: list[int] | None = None) -> Step:
    return Step(kind, False, views, out, ints or [])


#: Kind -> a step, the widths of its slots, and for every slot the elements that it reaches: first, last.
STEPS: dict[str, tuple[Step, list[int], list[tuple[int, int]]]] = {
    "element-wise": (
        step_of(Kind.POINTWISE, {0: View(0, 2, ((1, 0), (1, 0), (2, 7), (3, 2)))}, View(1, 1, ((1, 0), (1, 0), (2, 3), (3, 1))), [0]),
        [20, 9],
        [(2, 13), (1, 6)],
    ),
    "element-wise, from the end": (
        step_of(Kind.POINTWISE, {0: View(0, 8, ((1, 0), (1, 0), (1, 0), (4, -2)))}, View(1, 0, ((1, 0), (1, 0), (1, 0), (4, 1))), [0]),
        [20, 9],
        [(2, 8), (0, 3)],
    ),
    "product of matrices": (
        step_of(Kind.GEMM, {0: View(0, 1, ((3, 6),))}, View(1, 2, ((3, 5),)), [0, 4, 5]),
        [30, 30],
        [(1, 17), (2, 15)],
    ),
    "product with a factor and a summand": (
        step_of(
            Kind.GEMM,
            {0: View(0, 0, ((3, 6),)), 1: View(1, 1, ((3, 8),)), 2: View(2, 2, ((3, 7),))},
            View(3, 0, ((3, 4),)),
            [0, 4, 5],
        ),
        [30, 30, 30, 30],
        [(0, 16), (1, 20), (2, 19), (0, 11)],
    ),
    "pairs": (
        step_of(Kind.DOT, {0: View(0, 1, ((4, 3), (3, 1)))}, View(1, 2, ()), [0, 0]),
        [30, 30],
        [(1, 12), (2, 7)],
    ),
    "pairs with themselves behind a prefix": (
        step_of(Kind.DOT, {0: View(0, 0, ((4, 3), (3, 1))), 1: View(1, 5, ())}, View(2, 0, ()), [2, 1]),
        [30, 30, 30],
        [(0, 11), (5, 6), (0, 11)],
    ),
    "interaction network": (
        step_of(
            Kind.CIN,
            {0: View(0, 2, ((3, 1), (4, 3))), 1: View(1, 1, ((5, 4), (4, 1)))},
            View(2, 1, ((4, 6), (6, 1))),
            [0, 6, 15],
        ),
        [30, 30, 30],
        [(2, 13), (1, 20), (1, 24)],
    ),
    "recurrent layer": (
        step_of(
            Kind.RECURRENT,
            {0: View(0, 1, ((2, 40), (3, 12), (8, 1))), 1: View(1, 2, ((2, 5), (2, 1))), 2: View(2, 0, ((2, 0), (2, 1)))},
            View(3, 3, ((2, 30), (3, 4), (2, 1))),
            [1, 3, 2, 0, 8, 2],
        ),
        [80, 20, 10, 60],
        [(1, 72), (2, 8), (0, 1), (3, 50)],
    ),
    "recurrent layer of sequences with lengths": (
        step_of(
            Kind.RECURRENT,
            {0: View(0, 1, ((2, 40), (3, 12), (8, 1))), 4: View(1, 3, ((2, 5),))},
            View(2, 3, ((2, 30), (3, 4), (2, 1))),
            [0, 3, 2, 0, 8, 1],
        ),
        [80, 20, 60],
        [(1, 72), (3, 8), (3, 46)],
    ),
    "factorisation machine": (
        step_of(Kind.FM, {0: View(0, 0, ((4, 3), (3, 1)))}, View(1, 1, ()), [0]),
        [30, 30],
        [(0, 11), (1, 3)],
    ),
    "factorisation machine, one number": (
        step_of(Kind.FM, {0: View(0, 0, ((4, 3), (3, 1)))}, View(1, 1, ()), [1]),
        [30, 30],
        [(0, 11), (1, 1)],
    ),
    "sum": (
        step_of(Kind.REDUCE, {0: View(0, 1, ((2, 12), (3, 4), (4, 1)))}, View(1, 1, ((2, 4), (1, 0), (4, 1))), [0]),
        [40, 20],
        [(1, 24), (1, 8)],
    ),
    "running sum": (
        step_of(Kind.RUNNING, {0: View(0, 1, ((2, 12), (3, 4), (4, 1)))}, View(1, 1, ((2, 12), (3, 4), (4, 1))), [0]),
        [40, 40],
        [(1, 24), (1, 24)],
    ),
    "softmax": (
        step_of(Kind.SOFTMAX, {0: View(0, 1, ((3, 5), (4, 1)))}, View(1, 2, ((3, 4), (4, 1))), [0]),
        [40, 20],
        [(1, 14), (2, 13)],
    ),
    "products of matrices": (
        step_of(
            Kind.BMM,
            {0: View(0, 1, ((2, 12), (3, 4), (4, 1))), 1: View(1, 0, ((2, 20), (4, 5), (5, 1)))},
            View(2, 3, ((2, 15), (3, 5), (5, 1))),
            [0],
        ),
        [40, 60, 60],
        [(1, 24), (0, 39), (3, 32)],
    ),
    "attention with a mask": (
        step_of(
            Kind.ATTENTION,
            {
                0: View(0, 1, ((2, 12), (3, 4), (4, 1))),
                1: View(1, 2, ((2, 20), (5, 4), (4, 1))),
                2: View(2, 0, ((2, 10), (5, 2), (2, 1))),
                3: View(3, 1, ((2, 15), (3, 5), (5, 1))),
            },
            View(4, 0, ((2, 6), (3, 2), (2, 1))),
            [0],
        ),
        [60, 60, 60, 60, 60],
        [(1, 24), (2, 41), (0, 19), (1, 30), (0, 11)],
    ),
    "top of an axis": (
        step_of(Kind.ORDER, {0: View(0, 1, ((2, 12), (3, 4), (4, 1)))}, View(1, 2, ((2, 8), (2, 4), (4, 1))), [1, 0, 0]),
        [40, 40],
        [(1, 24), (2, 17)],
    ),
    "windows": (
        step_of(
            Kind.CONVOLVE,
            {0: View(0, 1, ((3, 9), (4, 1)))},
            View(1, 2, ((5, 12), (3, 4), (4, 1))),
            [2, 50, 2, 9, 3, 2],
        ),
        [100, 70],
        [(1, 1 + 2 * 9 + 3 + 50 + 9 + 4), (2, 61)],
    ),
    "numbers of rows": (step_of(Kind.ROW_NUMBERS, {}, View(0, 4, ()), [0, 1, 5]), [20], [(4, 8)]),
}  # fmt: skip


def reached(step: Step, slots: list[Slot]) -> dict[int, tuple[int, int, int]]:
    """Slot -> the elements in the error for it, when its width is zero."""
    found = {}
    for number in range(len(slots)):
        narrow = [dataclasses.replace(slot, width=0) if at == number else slot for at, slot in enumerate(slots)]
        with pytest.raises(TargetError) as caught:
            check_bounds(narrow, [step])
        match = re.search(r"reaches elements (-?\d+) to (-?\d+) of slot (\d+), which holds (\d+)", str(caught.value))
        assert match is not None
        first, last, slot, width = map(int, match.groups())
        assert (slot, width) == (number, 0)
        found[number] = (first, last, width)
    return found


@pytest.mark.parametrize("name", STEPS)
def test_what_a_step_reaches(name: str) -> None:
    step, widths, expected = STEPS[name]
    slots = [temp(width) for width in widths]
    check_bounds(slots, [step])
    assert [found[:2] for found in reached(step, slots).values()] == expected


@pytest.mark.parametrize("name", STEPS)
def test_one_element_too_few_is_an_error(name: str) -> None:
    step, _, expected = STEPS[name]
    exact = [temp(last + 1) for _, last in expected]
    check_bounds(exact, [step])
    for number, (_, last) in enumerate(expected):
        slots = [temp(last) if at == number else slot for at, slot in enumerate(exact)]
        with pytest.raises(TargetError, match=rf"reaches elements .* of slot {number}, which holds {last}, as"):
            check_bounds(slots, [step])


@pytest.mark.parametrize("name", STEPS)
def test_one_element_before_the_first_is_an_error(name: str) -> None:
    step, widths, expected = STEPS[name]
    slots = [temp(width) for width in widths]
    starts = {view.slot: view for view in (*step.views.values(), step.out)}
    for number, (first, _) in enumerate(expected):
        for by in (-first, -first - 1):
            moved = dataclasses.replace(starts[number], offset=starts[number].offset + by)
            views = {at: moved if view.slot == number else view for at, view in step.views.items()}
            changed = dataclasses.replace(step, views=views, out=moved if step.out.slot == number else step.out)
            if by == -first:
                check_bounds(slots, [changed])
            else:
                with pytest.raises(TargetError, match=rf"reaches elements -1 to .* of slot {number}"):
                    check_bounds(slots, [changed])


def test_a_loop_that_does_not_run_reaches_nothing() -> None:
    slots = [temp(4), temp(4)]
    runs = ((1, 0), (1, 0), (0, 100), (3, 50))
    check_bounds(slots, [step_of(Kind.POINTWISE, {0: View(0, 99, runs)}, View(1, 99, runs), [0])])


def test_the_widest_row_the_library_takes() -> None:
    check_bounds([temp(2**31 - 1)], [])
    check_bounds([Slot(Place.INPUT, torch.float32, 2**31, False)], [])
    with pytest.raises(TargetError, match="more than 2147483647"):
        check_bounds([temp(2**31)], [])
