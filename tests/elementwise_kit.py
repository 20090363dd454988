"""Grids of float32 numbers, and errors in units in the last place."""

from __future__ import annotations

import torch

Tensor = torch.Tensor

#: Special arguments of functions: the ends of float32 and of its denormals, NaN with several payloads, and the limits
#: at which exponentials overflow and underflow.
SPECIAL_BITS = (
    0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x007FFFFF, 0x807FFFFF, 0x00800000, 0x80800000, 0x7F7FFFFF, 0xFF7FFFFF,
    0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC00000, 0x7FFFFFFF, 0x7F800001, 0xFF8F0000,
)  # fmt: skip
SPECIAL_NUMBERS = (
    1.0, -1.0, 0.5, -0.5, 1.5, -1.5, 2.0, -2.0, 3.0, -3.0, 6.0, 10.0, -9.9, -13.0, -15.0, 20.0, 80.0, -80.0, 87.0, -87.0, -87.5, 88.0,
    88.375, 88.5, 88.7228, 88.73, 89.0, -88.0, -95.0, -103.0, -103.9, -104.0, -104.5, -150.0, 1e-10, -1e-10, 1e19, -1e19, 2e19, 1e30, -1e30,
    1e-30,
)  # fmt: skip

#: Number of mantissas in a grid for each sign and exponent.
MANTISSAS = 1 << 12


def from_bits(bits: Tensor) -> Tensor:
    """float32 numbers of 32-bit patterns, given as int64."""
    return torch.where(bits >= 1 << 31, bits - (1 << 32), bits).to(torch.int32).view(torch.float32)


def specials() -> Tensor:
    """The special numbers."""
    return torch.cat([from_bits(torch.tensor(SPECIAL_BITS)), torch.tensor(SPECIAL_NUMBERS)])


def grid(columns: int) -> Tensor:
    """Rows of `columns` numbers: every sign and exponent with MANTISSAS mantissas in the order of their bits, then
    special numbers."""
    fine = torch.arange(MANTISSAS)
    steps = (fine << 11) + (fine * 1103 & 0x7FF)  # the low bits vary as well
    bits = (torch.arange(512).unsqueeze(1) << 23) + steps
    numbers = from_bits(bits.flatten())
    left = -numbers.numel() % columns
    while left < specials().numel():
        left += columns
    ends = specials().repeat(left // specials().numel() + 1)[:left]
    return torch.cat([numbers, ends]).reshape(-1, columns)


def same_bits(left: Tensor, right: Tensor) -> bool:
    """Whether two float32 tensors hold the same numbers, including the sign of zeros; all NaN are equal."""
    nan = left.isnan()
    return torch.equal(nan, right.isnan()) and torch.equal(
        left.masked_fill(nan, 0).view(torch.int32), right.masked_fill(nan, 0).view(torch.int32)
    )


def ulps(found: Tensor, exact: Tensor) -> Tensor:
    """The error of float32 numbers in units in the last place of the exact number. Infinity counts as 2^128; NaN as no error."""
    held = exact.clamp(-(2.0**128), 2.0**128)
    exponent = torch.frexp(held)[1].clamp(min=-125)
    error = (found.double().clamp(-(2.0**128), 2.0**128) - held).abs()
    return torch.ldexp(error, 24 - exponent).nan_to_num(nan=0.0)


def plainly_right(found: Tensor, torch_gives: Tensor, exact: Tensor) -> Tensor:
    """A mask of the results that are at most one float32 number away from the exact number, with torch's sign, or that
    are NaN as in torch. Most results are, and this check costs less than `differences`.
    """
    near = exact.float()
    apart = (_in_order(found) - _in_order(near)).abs_()
    right = (apart <= 1) & (found.signbit() == torch_gives.signbit()) & torch_gives.isfinite() & near.isfinite()
    return right.logical_or_(found.isnan() & torch_gives.isnan() & near.isnan())


def _in_order(numbers: Tensor) -> Tensor:
    """Integers in the order of float32 numbers; neighbours differ by one."""
    bits = numbers.contiguous().view(torch.int32)
    return torch.where(bits < 0, -(bits & 0x7FFFFFFF), bits).long()


def differences(found: Tensor, torch_gives: Tensor, exact: Tensor, x: Tensor, allowed: Tensor | float) -> Tensor:
    """Marks wrong results.

    Args:
        found: The kernel's result.
        torch_gives: torch's result.
        exact: The result in float64.
        x: The argument.
        allowed: The largest error of each number in units in the last place.

    Returns:
        A mask of wrong results. For finite arguments the expected result is `exact`, for others torch's. A zero
        must have torch's sign if torch's result is a zero too.
    """
    finite = x.isfinite()
    nan = torch.where(finite, exact.isnan(), torch_gives.isnan())
    wrong = found.isnan() != nan
    wrong |= ~finite & ~nan & (ulps(found, torch_gives.double()) > 1)
    wrong |= (found == 0) & (torch_gives == 0) & (found.signbit() != torch_gives.signbit())
    rounded = found == exact.float()
    doubtful = (finite & ~nan & ~rounded).nonzero().flatten()
    limit = allowed[doubtful] if isinstance(allowed, Tensor) else allowed
    wrong[doubtful] |= ulps(found[doubtful], exact[doubtful]) > limit
    return wrong
