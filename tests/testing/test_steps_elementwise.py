"""The operands that element-wise steps choose: each kind of partner has its shape, and no other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
import torch
from step_kit import pool_of
from torch import fx

from recfx.ir.op_sets import ADDITIONS
from recfx.testing import steps_elementwise as steps
from recfx.testing.pool import Pool, is_steady, sizes

aten = torch.ops.aten


class Script:
    """Draws given values in order, each of which its strategy must be able to give; then the first value of a strategy."""

    def __init__(self, *values: Any) -> None:
        self.values = deque(values)

    def __call__(self, strategy: Any) -> Any:
        strategy = getattr(strategy, "wrapped_strategy", strategy)
        elements = getattr(strategy, "elements", None)
        if elements is None:
            low = getattr(strategy, "start", None)
            elements = (False, True) if low is None else range(low, strategy.end + 1)
        if not self.values:
            return elements[0]
        value = self.values.popleft()
        assert value in elements
        return value


def value_of(pool: Pool, rank: int) -> fx.Node:
    found: fx.Node = next(v for v in pool.values if v.meta["val"].ndim == rank and v.meta["val"].dtype is torch.float32)
    return found


PARTNERS: dict[tuple[str, int], list[int]] = {
    ("vector", 1): [1],
    ("vector", 2): [3],
    ("vector", 3): [3],
    ("row", 1): [1],
    ("row", 2): [1, 3],
    ("row", 3): [1, 3],
    ("column", 1): [1],
    ("narrow", 1): [1],
    ("scalar-state", 1): [],
    ("scalar-state", 2): [],
}


@pytest.mark.parametrize(("kind", "rank"), PARTNERS)
def test_weights_that_broadcast(kind: str, rank: int) -> None:
    pool = pool_of()
    found = steps._broadcast(pool, Script(kind, "plain"), value_of(pool, rank))
    assert found.op == "get_attr"
    assert list(found.meta["val"].shape) == PARTNERS[kind, rank]


@pytest.mark.parametrize("value", ["zeros", "ones", "negative", "equal"])
@pytest.mark.parametrize("kind", ["vector", "row", "scalar-state"])
def test_weights_may_have_special_values(kind: str, value: str) -> None:
    pool = pool_of()
    found = pool.rows_of(str(steps._broadcast(pool, Script(kind, value), value_of(pool, 2)).target))
    checks: dict[str, Callable[[torch.Tensor], bool]] = {
        "zeros": lambda t: bool((t == 0).all()),
        "ones": lambda t: bool((t == 1).all()),
        "negative": lambda t: bool((t <= -0.1).all()),
        "equal": lambda t: t.ndim == 0 or bool((t == t[0]).all()),
    }
    assert checks[value](found)


@pytest.mark.parametrize(("rank", "dim"), [(2, 1), (3, 1), (3, 2)])
def test_a_column_is_a_reduction_that_keeps_its_dimension(rank: int, dim: int) -> None:
    pool = pool_of()
    first = value_of(pool, rank)
    found = steps._broadcast(pool, Script("column", aten.amax.default, dim), first)
    assert found.target is aten.amax.default
    assert sizes(found) == [size if axis != dim else "1" for axis, size in enumerate(sizes(first))]


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_numbers_and_values_of_the_same_shape(rank: int) -> None:
    pool = pool_of()
    first = value_of(pool, rank)
    assert steps._broadcast(pool, Script("number", -1.5), first) == -1.5
    same = steps._broadcast(pool, Script("same"), first)
    assert sizes(same) == sizes(first)


def test_a_narrow_partner_has_a_size_of_one() -> None:
    pool = pool_of()
    first = value_of(pool, 2)
    found = steps._broadcast(pool, Script("narrow"), first)
    assert [sizes(found)[0], sizes(found)[1]] == [sizes(first)[0], "1"]
    alone = value_of(pool, 3)
    assert steps._broadcast(pool, Script("narrow"), alone) is alone


def test_numbers_of_a_pass_are_preferred() -> None:
    pool = pool_of()
    pool.numbers = (7,)
    assert steps._broadcast(pool, Script(2, True, 7, False), value_of(pool, 2)) == 7
    assert steps._broadcast(pool, Script(1, "scalar-state"), value_of(pool, 2)).op == "get_attr"


@pytest.mark.parametrize(
    ("narrow", "wide", "fits"),
    [
        ((1, 3), (2, 3), True),
        ((1, 1), (2, 3), True),
        ((2, 1), (2, 3), True),
        ((2, 3), (2, 3), False),
        ((2, 3), (2, 1), False),
        ((1, 3), (1, 3), False),
        ((3,), (2, 3), False),
        ((1, 2, 3), (2, 3), False),
        ((1, 2), (2, 3), False),
    ],
)
def test_what_broadcasts(narrow: tuple[int, ...], wide: tuple[int, ...], fits: bool) -> None:
    pool = pool_of()
    assert steps._broadcasts(pool.weight(*narrow), pool.weight(*wide)) is fits


def last(pool: Pool) -> fx.Node:
    return pool.made[-1]


def test_a_dividend_whose_divisor_may_be_zero_does_not_depend_on_rounding() -> None:
    pool = pool_of()
    steps._divide(pool, Script("input"), aten.div.Tensor)
    first, second = last(pool).args
    assert is_steady(first)
    assert is_steady(second)
    assert sizes(first) == sizes(second)


@pytest.mark.parametrize("kind", ["state", "number", "integers"])
def test_other_divisors_are_not_zero(kind: str) -> None:
    pool = pool_of()
    steps._divide(pool, Script(kind), aten.div.Tensor)
    first, second = last(pool).args
    if kind == "state":
        assert bool((pool.rows_of(second.target) >= 0.1).all())
    elif kind == "number":
        assert second in (1, 2.0, 0.5, -1.0, 3)
    else:
        assert first is pool.builder.inputs["ids"]


@pytest.mark.parametrize("target", [aten.where.self, aten.where.ScalarOther, aten.masked_fill.Scalar])
def test_conditions_have_the_shape_of_their_values(target: Any) -> None:
    pool = pool_of()
    steps._where(pool, Script(), target)
    tensors = [a for a in last(pool).args if isinstance(a, fx.Node)]
    assert len({tuple(sizes(t)) for t in tensors}) == 1
    assert sum(t.meta["val"].dtype is torch.bool for t in tensors) == 1


@pytest.mark.parametrize("target", [*ADDITIONS, aten.mul.Tensor])
def test_sums_of_integers(target: Any) -> None:
    pool = pool_of()
    steps._arithmetic(pool, Script(7), target)
    assert last(pool).args[0] is pool.builder.inputs["ids"]
    assert not last(pool).kwargs
