"""How two lists of outputs differ, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from recfx.ir.constants import same_constant
from recfx.ir.held_values import is_held


def difference(expected: Sequence[Any], actual: Sequence[Any]) -> str:
    """How outputs differ, as it follows a verb: "by 0.25", "in 2 of 8 elements, ...", or "in shape or dtype: ...".

    Args:
        expected: The right outputs.
        actual: The other ones.
    """
    if len(expected) != len(actual):
        return f"in the number of outputs: expected {len(expected)}, got {len(actual)}"
    worst = 0.0
    for want, got in zip(expected, actual, strict=True):
        if isinstance(want, torch.Tensor) and isinstance(got, torch.Tensor):
            if want.shape != got.shape or want.dtype is not got.dtype:
                return f"in shape or dtype: expected {_kind(want)}, got {_kind(got)}"
            if (words := _nan_in_one(want, got)) is not None:
                return words
            worst = max(worst, _largest_gap(want, got))
        elif isinstance(want, torch.Tensor) or not (same_constant(want, got) if is_held(want) else want == got):
            return f"in a value: expected {_kind(want)}, got {_kind(got)}"
    return f"by {worst:.3g}"


def _nan_in_one(want: torch.Tensor, got: torch.Tensor) -> str | None:
    """The words for elements that are NaN on one side alone."""
    appeared, gone = int((got.isnan() & ~want.isnan()).sum()), int((want.isnan() & ~got.isnan()).sum())
    if not appeared and not gone:
        return None
    given, right = ("NaN", "a number") if appeared else ("a number", "NaN")
    return f"in {appeared or gone} of {want.numel()} elements: expected {right}, got {given}"


def _largest_gap(want: torch.Tensor, got: torch.Tensor) -> float:
    """The largest absolute difference; equal infinities differ by 0."""
    if not want.numel():
        return 0.0
    precise = torch.complex128 if want.is_complex() else torch.float64
    gap = (want.to(precise) - got.to(precise)).abs()
    return float(gap.masked_fill(want == got, 0.0).nan_to_num(0.0, posinf=float("inf")).max())


def _kind(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return repr(value)[:80]
