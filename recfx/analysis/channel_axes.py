"""Axes as products of factors, and their division and merging by reshapes.

An axis is a tuple of factors, the first one varying slowest. A factor is a vector of labels (see `channel_labels`), one for each of its
places, or a `Fixed` size whose places all stay: the batch, or an axis of an input. An axis of size one has no factors. Merging [B, H] into
[B * H] gives the factors of both axes, so that the heads of an attention stay visible behind a free batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import sympy

from recfx.analysis.axis_rules import expression
from recfx.analysis.channel_labels import PINNED, Labels, Vector

#: The largest axis whose elements get labels. Longer ones, such as the rows of tables, are selected by ids and stay.
MOST_ELEMENTS = 1 << 15


@dataclasses.dataclass(frozen=True)
class Fixed:
    """A part of an axis that stays whole.

    Attributes:
        size: Its size, as a sympy expression.
    """

    size: Any


Factor = Vector | Fixed
Axis = tuple[Factor, ...]


def as_expression(size: Any) -> Any:
    """A size as a sympy expression, which it may be already."""
    return size if isinstance(size, sympy.Basic) else expression(size)


def fixed(size: Any) -> Axis:
    """An axis of a size, which stays whole."""
    size = as_expression(size)
    return () if size == 1 else (Fixed(size),)


def labelled(labels: Labels, size: Any) -> Axis:
    """An axis with a new label for each place; an axis that stays if its size varies or is too large."""
    size = as_expression(size)
    if not size.is_Integer or not 1 < size <= MOST_ELEMENTS:
        return fixed(size)
    return (labels.fresh(int(size)),)


def size_of(factor: Factor) -> Any:
    """The size of a factor, as a sympy expression."""
    return factor.size if isinstance(factor, Fixed) else sympy.Integer(len(factor))


def flat(labels: Labels, axis: Axis) -> Vector | None:
    """The labels of all places of an axis, in order; None if its size varies or is too large."""
    found = np.array([PINNED], dtype=np.int64)
    for position, factor in enumerate(axis):
        if isinstance(factor, Fixed):
            if not factor.size.is_Integer or factor.size > MOST_ELEMENTS:
                return None
            factor = np.full(int(factor.size), PINNED, dtype=np.int64)
        found = factor if position == 0 else labels.products(found, factor)
        if len(found) > MOST_ELEMENTS:
            return None
    return found


def vectors(axes: Iterable[Axis]) -> list[Vector]:
    """The labels in some axes."""
    return [factor for axis in axes for factor in axis if not isinstance(factor, Fixed)]


def same_axis(first: Axis, second: Axis) -> bool:
    """Whether two axes are the same objects, so that tying them changes nothing."""
    return len(first) == len(second) and all(a is b for a, b in zip(first, second, strict=True))


def tie(labels: Labels, first: Axis, second: Axis) -> bool:
    """Ties two axes of one size place by place; returns False if their factors differ and have labels."""
    if same_axis(first, second):
        return True
    if [size_of(f) for f in first] != [size_of(f) for f in second]:
        if not vectors([first, second]):
            return True
        a, b = flat(labels, first), flat(labels, second)
        if a is None or b is None or len(a) != len(b):
            return False
        labels.unify(a, b)
        return True
    for x, y in zip(first, second, strict=True):
        if isinstance(x, Fixed) or isinstance(y, Fixed):
            for pinned in vectors([(x, y)]):
                labels.pin(pinned)
        else:
            labels.unify(x, y)
    return True


def regrouped(labels: Labels, axes: Sequence[Axis], sizes: Sequence[Any]) -> list[Axis] | None:
    """The axes of a reshape; None if they divide and merge factors in a way that has no common factors.

    Args:
        labels: The labels.
        axes: The axes of the operand.
        sizes: The sizes of the result.
    """
    waiting = [factor for axis in axes for factor in axis][::-1]
    found: list[Axis] = []
    for size in map(as_expression, sizes):
        axis: list[Factor] = []
        while size != 1:
            if not waiting:
                return None
            factor = waiting.pop()
            rest = _quotient(size, size_of(factor))
            if rest is None:
                inner = _quotient(size_of(factor), size)
                if inner is None:
                    return None
                factor, behind = _divided(labels, factor, size, inner)
                waiting.append(behind)
                rest = sympy.Integer(1)
            axis.append(factor)
            size = rest
        found.append(tuple(axis))
    return None if waiting else found


def _divided(labels: Labels, factor: Factor, outer: Any, inner: Any) -> tuple[Factor, Factor]:
    if isinstance(factor, Fixed):
        return Fixed(outer), Fixed(inner)
    return labels.divide(factor, int(outer))


def _quotient(size: Any, part: Any) -> Any:
    """size / part if it is a whole number for all values of the free sizes; else None."""
    if size.is_Integer and part.is_Integer:
        return size // part if size % part == 0 else None
    quotient = sympy.cancel(size / part)
    top, bottom = quotient.as_numer_denom()
    return top if bottom == 1 else None
