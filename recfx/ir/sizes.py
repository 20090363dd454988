"""Sizes of a signature: integers, names of dimensions, and expressions over such names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from recfx.ir import size_expressions


def same_size(a: Any, b: Any) -> bool:
    """Whether two sizes are the same expression; asking `==` of symbolic sizes could fix them."""
    if a is b:
        return True
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    left, right = (getattr(getattr(size, "node", None), "expr", None) for size in (a, b))
    return (left is not None and left == right) or str(a) == str(b)  # expressions are slow to print


def same_sizes(a: Sequence[Any], b: Sequence[Any]) -> bool:
    """Whether two shapes or strides are the same expressions."""
    return len(a) == len(b) and all(map(same_size, a, b))


def dimension_names(size: int | str) -> list[str]:
    """The dimension names in a size of a signature, each once."""
    return [] if isinstance(size, int) else size_expressions.dimensions(size)


def asks_for_data(error: Exception) -> bool:
    """Whether code raised an error by comparing a size that depends on the values of inputs, such as `lengths.max().item()`."""
    from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

    return isinstance(error, GuardOnDataDependentSymNode)


def evaluate_size(expression: str, sizes: Mapping[str, int]) -> int | None:
    """The value of a size expression, or None when `sizes` lacks a dimension of it."""
    value: int | None = size_expressions.evaluate(expression, sizes)
    return value


def linear_size(expression: str, known: Iterable[str]) -> tuple[str, int, int] | None:
    """(dimension, factor, base) of a size `factor * dimension + base` with a dimension outside `known`; None for any other size."""
    names = dimension_names(expression)
    if len(set(names)) != 1 or names[0] in known:
        return None
    points = [evaluate_size(expression, {names[0]: x}) for x in (0, 1, 2)]
    if None in points:
        return None
    base, first, second = (int(p) for p in points if p is not None)
    factor = first - base
    return (names[0], factor, base) if factor > 0 and second == base + 2 * factor else None
