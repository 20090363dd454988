"""Sizes of zero and divisors of zero and -1: no plan divides by them, at any instruction-set level, in `optimize` or at a call."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from native_kit import LEVELS, lower, needs_kernels, partition, program_of
from torch import nn
from torch.nn import functional

import recfx
from recfx.runtime.flat import flat_function

pytestmark = needs_kernels

X, IDS, NOTHING = torch.randn(4, 3), torch.arange(12).reshape(4, 3) % 5, torch.zeros(4, 3, 0)


class Model(nn.Module):
    """A function of modules and inputs."""

    def __init__(self, function: Callable[..., torch.Tensor], modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(modules)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.function(self.parts, *inputs)


def _linears(*widths: int) -> Callable[[], list[nn.Module]]:
    return lambda: [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]


def _dots(x: torch.Tensor) -> torch.Tensor:
    return (x @ x.transpose(1, 2)).flatten(1)


def _fm(x: torch.Tensor) -> torch.Tensor:
    return 0.5 * (x.sum(1) ** 2 - (x**2).sum(1))


_attend = functional.scaled_dot_product_attention

#: Name -> the function, its modules, its inputs.
CASES: dict[str, tuple[Callable[..., torch.Tensor], Callable[[], list[nn.Module]], tuple[torch.Tensor, ...]]] = {
    "a product over no column": (lambda m, x: x[:, :0] @ torch.zeros(0, 2), list, (X,)),
    "a linear layer without inputs": (lambda m, x: m[0](x[:, :0]), _linears(0, 4), (X,)),
    "one of an input without columns": (lambda m, x: m[0](x), _linears(0, 4), (X[:, :0].clone(),)),
    "one column over nothing": (lambda m, x: m[0](x[:, :0]), _linears(0, 1), (X,)),
    "no hidden column": (lambda m, x: m[1](m[0](x)), _linears(3, 0, 2), (X,)),
    "no hidden column, activated": (lambda m, x: m[1](m[0](x).relu()), _linears(3, 0, 2), (X,)),
    "no output": (lambda m, x: m[0](x), _linears(3, 0), (X,)),
    "a product of a matrix without columns": (lambda m, x: x @ torch.zeros(0, 2), list, (NOTHING,)),
    "a constant times it": (lambda m, x: torch.zeros(2, 0) @ x.mT, list, (NOTHING,)),
    "products over nothing": (lambda m, x: x @ x.mT, list, (NOTHING,)),
    "products of no rows": (lambda m, x: x.mT @ x, list, (NOTHING,)),
    "an einsum over nothing": (lambda m, x: torch.einsum("bi,bi->b", x[:, :0], x[:, :0]), list, (X,)),
    "an einsum of nothing": (lambda m, x: torch.einsum("bi,bj->bij", x[:, :0], x), list, (X,)),
    "a tensordot over nothing": (lambda m, x: torch.tensordot(x[:, :0], torch.zeros(0, 2), 1), list, (X,)),
    "a table without columns": (
        lambda m, i: torch.cat([m[0](i).flatten(1), i.float()], 1), lambda: [nn.Embedding(5, 0)], (IDS,)
    ),
    "bags without columns": (
        lambda m, i: torch.cat([m[0](i), i.float()], 1), lambda: [nn.EmbeddingBag(5, 0, mode="sum")], (IDS,)
    ),
    "no ids": (lambda m, i: m[0](i[:, :0]).sum(1), lambda: [nn.Embedding(5, 8)], (IDS,)),
    "no ids, mean": (lambda m, i: m[0](i[:, :0]).mean(1), lambda: [nn.Embedding(5, 8)], (IDS,)),
    "no ids beside others": (
        lambda m, i: torch.cat([m[0](i[:, :0]).flatten(1), m[0](i).flatten(1)], 1), lambda: [nn.Embedding(5, 8)], (IDS,)
    ),
    "a table without rows": (lambda m, i: m[0](i[:, :0]).sum(1), lambda: [nn.Embedding(0, 8)], (IDS,)),
    "a softmax of nothing": (lambda m, x: x[:, :0].softmax(1).sum(1), list, (X,)),
    "a norm of nothing": (lambda m, x: m[0](x[:, :0]).sum(1), lambda: [nn.LayerNorm(0)], (X,)),
    "a norm in a chain": (
        lambda m, x: m[2](torch.relu(m[1](m[0](x)))), lambda: [nn.Linear(3, 0), nn.LayerNorm(0), nn.Linear(0, 2)], (X,)
    ),
    "nothing joined": (lambda m, x: torch.cat([x[:, :0], x[:, 3:]], 1), list, (X,)),
    "nothing joined to something": (lambda m, x: m[0](torch.cat([x[:, :0], x, x[:, 3:]], 1)), _linears(3, 2), (X,)),
    "a sum of nothing": (lambda m, x: x[:, :0].sum(1), list, (X,)),
    "a mean of nothing": (lambda m, x: x[:, :0].mean(1), list, (X,)),
    "a length of nothing": (lambda m, x: x[:, :0].norm(dim=1), list, (X,)),
    "a maximum of empty rows": (lambda m, x: x.amax(1), list, (NOTHING,)),
    "a count of nothing": (lambda m, i: i[:, :0].sum(1), list, (IDS,)),
    "running sums of nothing": (lambda m, i: i[:, :0].cumsum(1), list, (IDS,)),
    "dots of no features": (lambda m, x: torch.cat([x, _dots(x[:, :0, None])], 1), list, (X,)),
    "dots of features without columns": (lambda m, x: torch.cat([x.sum(1)[:, :2], _dots(x)], 1), list, (NOTHING,)),
    "a factorisation machine over no features": (lambda m, x: _fm(x[:, :0, None].expand(-1, -1, 4)), list, (X,)),
    "one over empty features": (lambda m, x: _fm(x).sum(1, keepdim=True), list, (NOTHING,)),
    "a cross layer of nothing": (lambda m, x: x[:, :0] * m[0](x[:, :0]) + x[:, :0], _linears(0, 0), (X,)),
    "attention over no keys": (lambda m, x: _attend(x[:, None], x[:, None, :][:, :0], x[:, None][:, :0]), list, (X,)),
    "attention with heads of nothing": (lambda m, x: _attend(x, x, x[..., :0] + 0), list, (NOTHING,)),
    "attention to nothing": (lambda m, x: _attend(x[:, None], x[:, None], x[:, None, :0]), list, (X,)),
    "repeats of nothing": (lambda m, x: x.repeat(1, 0), list, (X,)),
    "no repeats": (lambda m, x: x.repeat_interleave(0, 1), list, (X,)),
    "a convolution of nothing": (lambda m, x: torch.conv1d(x[:, :0, None], torch.zeros(2, 0, 1)), list, (X,)),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("name", CASES)
def test_sizes_of_zero(name: str) -> None:
    """In fp32 with all passes, and every kernel level of the plain graph."""
    function, modules, inputs = CASES[name]
    model = Model(function, modules()).eval()
    expected = model(*inputs).detach()
    fast = recfx.optimize(model, "native", example_inputs=inputs, measure=False)
    torch.testing.assert_close(fast(*inputs), expected, equal_nan=True)
    program = program_of(lambda *x: function(model.parts, *x), inputs)
    for level in LEVELS:
        (found,) = flat_function(partition(program, level).region)(*inputs)
        torch.testing.assert_close(found, expected, equal_nan=True)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("precision", ["bf16", "int8"])
@pytest.mark.parametrize(
    "name", ["a linear layer without inputs", "no hidden column, activated", "no output", "no ids"]
)
def test_sizes_of_zero_in_few_bits(name: str, precision: str) -> None:
    function, modules, inputs = CASES[name]
    model = Model(function, modules()).eval()
    fast = recfx.optimize(model, "native", example_inputs=inputs, measure=False, precision=precision)
    torch.testing.assert_close(fast(*inputs), model(*inputs).detach(), rtol=0.02, atol=0.02)


LOWEST = -(2**63)

#: Name -> a division of whole numbers, and the same of Python's, before it wraps around.
DIVISIONS: dict[str, tuple[Callable[[Any, int], torch.Tensor], Callable[[int, int], int]]] = {
    "remainder": (lambda i, divisor: i % divisor, lambda i, divisor: i % divisor),
    "rounded down": (lambda i, divisor: i // divisor, lambda i, divisor: i // divisor),
    "towards zero": (
        lambda i, divisor: torch.div(i, divisor, rounding_mode="trunc"),
        lambda i, divisor: abs(i) // abs(divisor) * (1 if (i < 0) == (divisor < 0) else -1),
    ),
}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", DIVISIONS)
@pytest.mark.parametrize("bits", [64, 32])
def test_divisions_at_the_ends(name: str, bits: int, level: str) -> None:
    """The lowest number by -1 leaves the type: a processor stops there, and so does torch in one of these divisions."""
    divide, exact = DIVISIONS[name]
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    numbers = [low, low + 1, -7, -1, 0, 1, 7, high]
    ids = torch.tensor([numbers] * 2, dtype=torch.int64 if bits == 64 else torch.int32)
    for divisor in (-1, 1, 2, -7, min(high, 2**53), max(low, -(2**53))):
        (found,) = lower(program_of(lambda i, divisor=divisor: divide(i, divisor), [ids.clamp(-5, 5)]), level)(ids)
        assert found.dtype == ids.dtype
        assert found[0].tolist() == [(exact(n, divisor) - low) % 2**bits + low for n in numbers], divisor


@pytest.mark.parametrize("name", DIVISIONS)
@pytest.mark.parametrize("divisor", [2**31, -(2**31) - 1, 2**31 + 3, 2**40 + 5])
def test_divisors_that_leave_int32_are_wrapped_around_as_torch_does(name: str, divisor: int) -> None:
    divide, _ = DIVISIONS[name]
    ids = torch.tensor([[-(2**31) + 1, -7, -1], [0, 7, 2**31 - 1]], dtype=torch.int32)
    run = flat_function(partition(program_of(lambda i: divide(i, divisor), [ids]), LEVELS[0]).region)
    assert torch.equal(run(ids)[0], divide(ids, divisor))


@pytest.mark.parametrize("divisor", [2**62, LOWEST])
def test_divisors_that_no_double_is_sure_to_hold_stay_with_torch(divisor: int) -> None:
    ids = torch.tensor([[LOWEST, LOWEST + 1, -1], [0, 7, 2**63 - 1]])
    made = partition(program_of(lambda i: i % divisor, [ids]), LEVELS[0])
    assert torch.equal(flat_function(made.region)(ids)[0], ids % divisor)


@pytest.mark.parametrize("divide", [lambda i, z: i % z, lambda i, z: i // z])
def test_division_by_zero_is_torchs_error(divide: Callable[[Any, Any], Any]) -> None:
    """A divisor that is an input is zero at some call only."""
    ids = torch.tensor([[4, 5], [6, 7]])
    run = flat_function(partition(program_of(divide, [ids, ids + 1]), LEVELS[0]).region)
    assert torch.equal(run(ids, ids + 1)[0], divide(ids, ids + 1))
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        run(ids, torch.zeros_like(ids))
