"""Compares the outputs of a peer with those of eager."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from benchmarks.peer import Run


@dataclasses.dataclass(frozen=True)
class Error:
    """The distance of outputs from eager's.

    Attributes:
        absolute: Largest difference; None if the outputs cannot be compared.
        relative: Largest difference over the largest magnitude of eager's outputs; None if that is zero.
        wrong: The fault, or None.
    """

    absolute: float | None
    relative: float | None
    wrong: str | None = None


def outputs(run: Run, sets: Sequence[tuple[object, ...]]) -> list[object]:
    """A peer's outputs for each of several inputs, copied so that its next call does not overwrite them."""
    return [pytree.tree_map_only(Tensor, torch.clone, run(*inputs)) for inputs in sets]


def error_of(got: Sequence[object], expected: Sequence[object], tolerance: float) -> Error:
    """Compares a peer's answers with eager's.

    Args:
        got: The peer's answers to several inputs.
        expected: Eager's answers to the same.
        tolerance: Largest relative error that counts as right.
    """
    scale = largest = 0.0
    for answer, reference in zip(got, expected, strict=True):
        leaves, references = pytree.tree_leaves(answer), pytree.tree_leaves(reference)
        if len(leaves) != len(references):
            return Error(None, None, f"{len(leaves)} outputs instead of {len(references)}")
        for leaf, right in zip(leaves, references, strict=True):
            form = _misshapen(leaf, right)
            if form:
                return Error(None, None, form)
            if isinstance(right, Tensor) and right.numel():
                difference = _difference(leaf.double(), right.double())
                if not math.isfinite(difference):
                    return Error(
                        None, None, "NaN or infinity at a position where eager has another value, or the reverse"
                    )
                largest = max(largest, difference)
                scale = max(scale, float(right.double().abs().nan_to_num(posinf=0.0).max()))
    if scale == 0:
        return Error(largest, None, "eager's outputs are all zero, but these are not" if largest > 0 else None)
    relative = largest / scale
    wrong = f"relative error {relative:.1e} exceeds {tolerance:.0e}" if relative > tolerance else None
    return Error(largest, relative, wrong)


def _difference(left: Tensor, right: Tensor) -> float:
    """The largest difference; two equal infinities, and two NaNs, do not differ."""
    same = (left == right) | (left.isnan() & right.isnan())
    return float((left - right).abs().masked_fill(same, 0.0).nan_to_num(nan=math.inf).max())


def _misshapen(leaf: object, right: object) -> str | None:
    if not isinstance(leaf, Tensor) or not isinstance(right, Tensor):
        if isinstance(leaf, Tensor) or isinstance(right, Tensor):
            return f"{type(leaf).__name__} instead of {type(right).__name__}"
        return None if leaf == right else f"{leaf!r} instead of {right!r}"
    if leaf.shape != right.shape:
        return f"shape {list(leaf.shape)} instead of {list(right.shape)}"
    return f"{leaf.dtype} instead of {right.dtype}" if leaf.dtype != right.dtype else None
