"""Operators that write to `out=` become operators with a result, with the same bits; or capture says why they cannot."""

from __future__ import annotations

import pytest
import torch
from functional_cases import Body, Fn, check, collect, floats
from torch import fx

from recfx.capture import capture
from recfx.errors import CaptureError
from recfx.ir.functional_ops import is_inplace, written_argument

CASES: dict[str, Body] = {}
REFUSED: dict[str, Body] = {}
case, refused = collect(CASES), collect(REFUSED)


@case
def a_new_tensor(x):
    y = torch.empty_like(x)
    torch.add(x, 1, out=y)
    return y


@case
def the_result_is_used(x):
    return torch.mul(x, 2, out=torch.empty_like(x)) + 1


@case
def sums_behind_a_zero(x):
    y = x.new_empty(x.shape[0], 7)
    y.narrow(1, 0, 1).zero_()
    torch.cumsum(x, dim=1, out=y.narrow(1, 1, 6))
    return y


@case
def its_own_operand(x):
    y = x + 0
    torch.add(y, 1, out=y)
    return y * 2


@case
def another_view_of_the_memory_that_it_reads(x):
    y = x + 0
    torch.mul(y[:, :3], 2, out=y[:, 3:])
    return y


@case
def a_wider_type(x):
    y = torch.empty(x.shape[0], 6, dtype=torch.float64)
    torch.add(x, 1, out=y)
    return y


@case
def a_product(x):
    y = x.new_zeros(x.shape[0], 4)
    torch.matmul(x, torch.ones(6, 4), out=y)
    return y


@case
def read_before_and_after(x):
    y = x.clone()
    before = y.sum(1)
    torch.sub(x, 3, out=y)
    return before, y.sum(1)


@refused
def writes_to_its_input(x):
    torch.add(x, 1, out=x)
    return x


@refused
def another_size(x):
    y = x.new_empty(0)
    torch.cumsum(x, 1, out=y)
    return y


@pytest.mark.parametrize("name", CASES)
def test_functional_form(name: str) -> None:
    check(CASES[name])


@pytest.mark.filterwarnings("ignore:An output with one or more elements was resized")
@pytest.mark.parametrize("name", REFUSED)
def test_refused_form(name: str) -> None:
    with pytest.raises(CaptureError, match=name.replace("_", " ")):
        capture(Fn(REFUSED[name]), (floats(4),))


def test_several_results_are_refused() -> None:
    graph = fx.Graph()
    x, top, places = map(graph.placeholder, ("x", "top", "places"))
    node = graph.call_function(torch.ops.aten.max.dim_max, (x, 1), {"max": top, "max_values": places})
    assert is_inplace(node)
    with pytest.raises(CaptureError, match="cannot be made functional"):
        written_argument(node)
