"""Sizes of slices and reshapes as expressions that hold for every batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from recfx.ir.fake_kernels import batch_free_kernels
from recfx.ir.propagate import fake_inputs
from recfx.ir.true_sizes import with_true_sizes

_aten = torch.ops.aten


def sizes(target: Any, shape: tuple[int | str, ...], *args: Any) -> list[Any]:
    """Sizes of an operator's result, as expressions over b."""
    (x,) = fake_inputs([(shape, torch.float32, torch.device("cpu"))])
    with x.fake_mode, batch_free_kernels():
        return list(target(x, *args).shape)


def at(size: Any, rows: int) -> int:
    return size if isinstance(size, int) else int(size.node.expr.subs(dict.fromkeys(size.node.expr.free_symbols, rows)))


@given(
    st.one_of(st.none(), st.integers(-9, 9)),
    st.one_of(st.none(), st.integers(-9, 9)),
    st.integers(1, 3),
    st.integers(1, 2),
)
def test_slices_of_every_batch(start: int | None, end: int | None, step: int, times: int) -> None:
    """The size equals torch's, for one row and many."""
    assume(range(7 * times)[start:end:step])  # no plan contains a slice without elements
    shape: tuple[int | str, ...] = ("b" if times == 1 else f"{times} * b", 3)
    (size, columns) = sizes(_aten.slice.Tensor, shape, 0, start, end, step)
    assert columns == 3
    for rows in (1, 2, 3, 5, 12):
        assert at(size, rows) == len(range(times * rows)[start:end:step])


@pytest.mark.parametrize(
    ("args", "expected"),
    [((0, 0, 1), 1), ((0, -1, 2**63 - 1), 1), ((1, 0, 2), 2), ((1, -2, 2**63 - 1), 2)],
)
def test_sizes_that_do_not_depend_on_the_batch_stay_numbers(args: tuple[int, ...], expected: int) -> None:
    assert sizes(_aten.slice.Tensor, ("b", 3), *args)[args[0]] == expected


def test_whole_slices_stay_the_batch() -> None:
    (size, _) = sizes(_aten.slice.Tensor, ("b", 3), 0, 0, 2**63 - 1)
    assert size.node.expr.is_Symbol


@pytest.mark.parametrize("reshape", [_aten.reshape.default, _aten.view.default, _aten.expand.default])
def test_sizes_written_as_numbers_are_those(reshape: Callable[..., Any]) -> None:
    (x,) = fake_inputs([(("b", 3), torch.float32, torch.device("cpu"))])
    with x.fake_mode, batch_free_kernels():
        part = _aten.slice.Tensor(x, 0, 0, 2)
        found = with_true_sizes(reshape, reshape(part, [2, 3]), (part, [2, 3]))
    assert list(found.shape) == [2, 3]
