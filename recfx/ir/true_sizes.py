"""True sizes of results where torch's fake kernels use the example's sizes.

A slice is clamped to its tensor: `x[:2]` of one row has one row. The fake kernel compares 2 with the example's batch, and returns [2, 3]
for `x[:2]` of [batch, 3] at any batch. The true size is an expression, Min(2, batch). By contrast, a reshape to [2, 3] has 2 rows or
fails.
"""

from __future__ import annotations

from typing import Any

import sympy
import torch
from torch.fx.experimental.symbolic_shapes import ShapeEnv, free_unbacked_symbols
from torch.utils._sympy import functions
from torch.utils._sympy.value_ranges import ValueRanges, bound_sympy

from recfx.ir.op_sets import SIZED

_aten = torch.ops.aten
_functions: Any = functions  # torch does not annotate them

#: The end of a slice without an end; a number larger than the size of any tensor.
_NO_END, _UNBOUNDED = 2**63 - 1, 2**62

#: Shape environments assume that every dynamic size is two or more; programs accept one row.
_FEWEST_ROWS = 1


def with_true_sizes(target: Any, result: Any, args: tuple[Any, ...]) -> Any:
    """The fake result of an operator; the result of a reshape has the sizes that its arguments give as numbers.

    Args:
        target: The operator.
        result: The result of its fake kernel.
        args: The positional arguments, fake tensors and sizes.
    """
    return _true_reshape(result, args[1]) if target in SIZED and len(args) > 1 else result


def slice_bounds(source: torch.Tensor, dim: int, start: Any, end: Any, step: Any) -> tuple[Any, Any] | None:
    """The first index of source[start:end:step] along a dimension, and its number of elements.

    None when the dimension and the bounds are fixed, when one depends on data, or when a bound may have either sign.
    """
    size = source.shape[dim]
    env = _environment(size, start, end, step)
    if env is None:
        return None
    begin, stop = _expression(0 if start is None else start), _expression(_NO_END if end is None else end)
    first = _bound(env, begin, _expression(size))
    length = _length(env, _expression(size), begin, stop, _expression(step))
    if first is None or length is None:
        return None
    return _number(env, first), _number(env, length)


def has_clamped_size(value: Any) -> bool:
    """Whether a fake value has a size with a minimum or maximum: the number of rows of a slice that a smaller tensor cuts short."""
    tensors = value if isinstance(value, list | tuple) else [value]
    sizes = [size for t in tensors if isinstance(t, torch.Tensor) for size in t.shape]
    return any(map(is_clamped, sizes))


def is_clamped(size: Any) -> bool:
    """Whether a size has a minimum or maximum."""
    if not isinstance(size, torch.SymInt):
        return False
    expression = size.node.expr
    return not expression.is_Symbol and bool(expression.has(_functions.Max, _functions.Min))


def _number(env: ShapeEnv, expression: sympy.Expr) -> Any:
    """An expression as an integer, or as a symbolic size of a shape environment."""
    if expression.is_Integer:
        return int(expression)
    hints = {symbol: env.backed_var_to_val[symbol] for symbol in expression.free_symbols}
    return env.create_symintnode(expression, hint=int(expression.xreplace(hints)))


def _true_reshape(result: torch.Tensor, given: Any) -> torch.Tensor:
    """Replaces symbolic sizes of a reshape's result by the numbers in its arguments: with any other size the reshape fails."""
    sizes = list(result.shape)
    wrong = [
        place
        for place, (size, wanted) in enumerate(zip(sizes, given, strict=True))
        if isinstance(wanted, int) and wanted >= 0 and not isinstance(size, int)
    ]
    for place in wrong:
        sizes[place] = given[place]
    return result.new_empty_strided(sizes, result.stride()) if wrong else result


def _environment(*values: Any) -> ShapeEnv | None:
    """The shape environment of sizes; None when all are fixed, or one depends on data."""
    varying = [v for v in values if isinstance(v, torch.SymInt)]
    if not varying or any(free_unbacked_symbols(v) for v in varying):
        return None
    env: ShapeEnv = varying[0].node.shape_env
    return env


def _expression(value: Any) -> sympy.Expr:
    return value.node.expr if isinstance(value, torch.SymInt) else sympy.Integer(value)


def _length(env: ShapeEnv, size: sympy.Expr, start: sympy.Expr, end: sympy.Expr, step: sympy.Expr) -> sympy.Expr | None:
    """The number of elements in size[start:end:step]; None when the sign of a bound is unknown."""
    first, last = _bound(env, start, size), _bound(env, end, size)
    if first is None or last is None:
        return None
    length = last - first
    if first != 0 and last != size:  # otherwise the length is not negative, since bounds lie within the size
        length = _larger(env, sympy.Integer(0), length)
    return length if step == 1 else _functions.CeilDiv(length, step)


def _bound(env: ShapeEnv, bound: sympy.Expr, size: sympy.Expr) -> sympy.Expr | None:
    """The index of a slice bound, clamped to the size; a negative bound counts from the end; None when its sign is unknown."""
    held = _range(env, bound)
    if held.lower >= _UNBOUNDED:
        return size
    if held.lower >= 0:
        gap = _range(env, bound - size)
        return bound if gap.upper <= 0 else size if gap.lower >= 0 else _functions.Min(bound, size)
    return _larger(env, sympy.Integer(0), size + bound) if held.upper < 0 else None


def _larger(env: ShapeEnv, a: sympy.Expr, b: sympy.Expr) -> sympy.Expr:
    gap = _range(env, a - b)
    return a if gap.lower >= 0 else b if gap.upper <= 0 else _functions.Max(a, b)


def _range(env: ShapeEnv, expression: sympy.Expr) -> ValueRanges[Any]:
    ranges = {}
    for symbol in expression.free_symbols:
        held = env.var_to_range[symbol]
        ranges[symbol] = ValueRanges(min(held.lower, sympy.Integer(_FEWEST_ROWS)), held.upper)
    return bound_sympy(expression, ranges)
