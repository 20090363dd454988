"""Rounding as noise: perturbations of an operator's operands and result, for runs that measure the effect of rounding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from recfx.ir.float64_bags import BAGS, with_read_rows

_aten = torch.ops.aten
_LAYER_NORMS = (_aten.layer_norm.default, _aten.native_layer_norm.default)
_Run = Callable[[Any, Any, Any], Any]
_EXACT_BELOW = 2.0**24
#: Operators that move, compare or convert numbers. They do not round, and noise in their operands could change their result entirely.
_EXACT = frozenset(
    [
        "to",
        "_to_copy",
        "type_as",
        "floor",
        "ceil",
        "round",
        "trunc",
        "frac",
        "remainder",
        "fmod",
        "floor_divide",
        "cat",
        "stack",
        "index",
        "index_select",
        "gather",
        "embedding",
        "where",
        "clone",
        "masked_fill",
        "sign",
        "relu",
        "contiguous",
        "lift_fresh_copy",
        "detach",
        "max",
        "min",
        "amax",
        "amin",
        "argmax",
        "topk",
        "sort",
    ]
)


def rounds(target: Any) -> bool:
    """Whether an operator computes with numbers and therefore rounds."""
    return isinstance(target, torch._ops.OpOverload) and not target.is_view and _name(target) not in _EXACT


class RoundingNoise:
    """Moves numbers by a last bit of float32, up or down at random.

    Args:
        seed: Seed of the random directions.
    """

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, value: Any) -> Any:
        """Moves the numbers of a tensor, or of the tensors in a list; returns other values as they are."""
        if isinstance(value, tuple | list):
            return type(value)(self(v) for v in value)
        if not is_float(value) or value.device.type != "cpu" or value.dtype not in (torch.float32, torch.float64):
            return value
        if _is_exact(value):
            return value
        signs = torch.randint(2, value.shape, generator=self._generator).mul_(2).sub_(1)
        return value * (1 + torch.finfo(torch.float32).eps * signs.to(value.dtype))

    def around(self, run: _Run, target: Any, args: Any, kwargs: Any) -> Any:
        """Runs an operator with noise in its operands, partial sums and result.

        Args:
            run: Runs an operator: target, arguments, keyword arguments -> result.
            target: The operator.
            args: Its arguments.
            kwargs: Its keyword arguments.
        """
        if target in BAGS:
            return self._around_bags(run, target, args, kwargs)
        found = self(run(target, self(args), kwargs))
        return self._with_mean_moved(args, kwargs, found) if target in _LAYER_NORMS else found

    def _around_bags(self, run: _Run, target: Any, args: Any, kwargs: Any) -> Any:
        """Adds noise relative to the sum of the magnitudes of a bag, which its partial sums may reach."""
        found, *rest = run(target, args, kwargs)
        rows, *others = with_read_rows(target, args)
        magnitudes = [rows.abs().to(args[0].dtype), *(a.abs() if is_float(a) else a for a in others)]
        most = run(target, magnitudes, kwargs)[0]
        return (found + (self(most) - most), *rest)

    def _with_mean_moved(self, args: Any, kwargs: Any, found: Any) -> Any:
        """Adds the noise of the mean, which is rounded before the subtraction; nearly equal numbers magnify it."""
        x, shape = args[0], args[1]
        weight = args[2] if len(args) > 2 else kwargs.get("weight")
        epsilon = args[4] if len(args) > 4 else kwargs.get("eps", 1e-5)
        dims = tuple(range(x.ndim - len(shape), x.ndim))
        most, variance = x.abs().mean(dims, keepdim=True), x.var(dims, correction=0, keepdim=True)
        moved = (self(most) - most) * torch.rsqrt(variance + epsilon) * (1.0 if weight is None else weight)
        return found + moved if isinstance(found, torch.Tensor) else (found[0] + moved, *found[1:])


def _is_exact(value: torch.Tensor) -> bool:
    """Whether all numbers are small integers, whose sums and products float32 computes without rounding."""
    return not value.numel() or (bool((value.abs() < _EXACT_BELOW).all()) and torch.equal(value, value.round()))


def _name(target: torch._ops.OpOverload) -> str:
    return str(target._schema.name.split("::")[-1])


def is_float(value: Any) -> bool:
    """Whether a value is a tensor of a floating-point type."""
    return isinstance(value, torch.Tensor) and value.is_floating_point()
