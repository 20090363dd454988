"""Rules of `axis_maps`. A rule takes an operator, the position of an operand and an axis of the result, and returns the axis map."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from enum import Enum
from fractions import Fraction
from typing import Any

import sympy
import torch
from torch import fx

from recfx.analysis.batch_axis import held_by
from recfx.ir.op_sets import ADDED_PRODUCTS, DIMENSION_MOVES, MATRIX_TRANSPOSES, REVERSALS, TRANSPOSITIONS

_aten = torch.ops.aten


@dataclasses.dataclass(frozen=True)
class Along:
    """Each place of the result reads the same place along an axis of the operand.

    Attributes:
        axis: The axis of the operand.
        ratio: The size of this axis divided by the size of the result's axis. A reshape that merges the axis with the next one has a
            ratio below one: several consecutive places of the result read one place. A reshape that divides the axis has a ratio above one.
    """

    axis: int
    ratio: Fraction = Fraction(1)


class Read(Enum):
    """The read of an operand that has no axis for the places of the result."""

    WHOLE = "every place reads the same elements"
    MIXED = "places read each other"


WHOLE, MIXED = Read.WHOLE, Read.MIXED
Axis = Along | Read
#: The position of an operand: the position of the argument, and the position inside an argument that is a list.
Role = tuple[int, int]
Rule = Callable[[fx.Node, Role, torch.Tensor, int], "Axis"]


def reshaped_axis(before: Sequence[Any], after: Sequence[Any], axis: int) -> Axis:
    """The axis of a tensor that becomes an axis of its reshape: the sizes before both axes have the same product.

    Args:
        before: The sizes of the tensor.
        after: The sizes of the reshape.
        axis: An axis of the reshape.
    """
    size, wanted = expression(after[axis]), math.prod(map(expression, after[:axis]))
    product: Any = sympy.Integer(1)
    for other, entry in enumerate(map(expression, before)):
        if sympy.expand(product - wanted) == 0 and entry != 1:
            ratio = sympy.simplify(entry / size)
            return Along(other, Fraction(int(ratio.p), int(ratio.q))) if ratio.is_Rational else MIXED
        product *= entry
    return WHOLE if size == 1 else MIXED


def expression(size: Any) -> Any:
    """A size as a sympy expression. Comparing expressions does not fix a free dimension."""
    return size.node.expr if isinstance(size, torch.SymInt) else sympy.Integer(size)


def _argument(node: fx.Node, index: int, name: str, default: Any = None) -> Any:
    return node.args[index] if index < len(node.args) else node.kwargs.get(name, default)


def _result(node: fx.Node) -> torch.Tensor:
    held = held_by(node)
    held = held[0] if isinstance(held, tuple | list) else held
    assert isinstance(held, torch.Tensor)
    return held


def _rank_of(value: Any) -> int:
    held = held_by(value)
    return held.ndim if isinstance(held, torch.Tensor) else 0


def _aligned(held: torch.Tensor, axis: int, shift: int) -> Axis:
    """The map of an operand whose first axis is axis `shift` of the result; it is broadcast along missing axes and axes of size one."""
    at = axis - shift
    return WHOLE if at < 0 or expression(held.shape[at]) == 1 else Along(at)


def broadcast(node: fx.Node, role: Role, held: torch.Tensor, axis: int) -> Axis:
    return _aligned(held, axis, _result(node).ndim - held.ndim)


def repeat(node: fx.Node, role: Role, held: torch.Tensor, axis: int) -> Axis:
    found = broadcast(node, role, held, axis)
    if isinstance(found, Along) and expression(held.shape[found.axis]) != expression(_result(node).shape[axis]):
        return MIXED
    return found


def reshape(node: fx.Node, role: Role, held: torch.Tensor, axis: int) -> Axis:
    return reshaped_axis(held.shape, _result(node).shape, axis)


def order_of(node: fx.Node, rank: int) -> list[int]:
    """The axes of the operand, in the order of the result, for an operator in PERMUTATIONS."""
    order = list(range(rank))
    if node.target is _aten.permute.default:
        return [d % rank for d in _argument(node, 1, "dims")]
    if node.target in TRANSPOSITIONS and rank:
        names = ("axis0", "axis1") if node.target is _aten.swapaxes.default else ("dim0", "dim1")
        first, second = (_argument(node, i, name) % rank for i, name in zip((1, 2), names, strict=True))
        order[first], order[second] = second, first
    elif node.target in DIMENSION_MOVES and rank:
        given = (_argument(node, 1, "source"), _argument(node, 2, "destination"))
        sources, places = ([d % rank for d in ([dims] if isinstance(dims, int) else dims)] for dims in given)
        others = iter([d for d in order if d not in sources])
        return [sources[places.index(d)] if d in places else next(others) for d in order]
    elif node.target in MATRIX_TRANSPOSES:
        order[-2:] = order[:-3:-1]
    elif node.target in REVERSALS:
        order.reverse()
    return order


def permute(node: fx.Node, role: Role, held: torch.Tensor, axis: int) -> Axis:
    return Along(order_of(node, held.ndim)[axis])


def unsqueeze(node: fx.Node, role: Role, held: torch.Tensor, axis: int) -> Axis:
    new = _argument(node, 1, "dim") % (held.ndim + 1)
    return WHOLE if axis == new else Along(axis - (axis > new))


def squeeze(node: fx.Node, role: Role, held: torch.Tensor, axis: int) -> Axis:
    dims = _argument(node, 1, "dim", list(range(held.ndim)))
    squeezed = {d % held.ndim for d in ([dims] if isinstance(dims, int) else dims)}
    gone = {d for d in squeezed if expression(held.shape[d]) == 1}
    return Along([d for d in range(held.ndim) if d not in gone][axis])


def dropped(default: int | None) -> Rule:
    """The rule for operators that remove one axis of the operand, such as select and unbind."""

    def rule(node: fx.Node, role: Role, held: torch.Tensor, axis: int) -> Axis:
        gone = _argument(node, 1, "dim", default) % held.ndim
        return Along(axis + (axis >= gone))

    return rule


def along(position: int, name: str = "dim", default: Any = None) -> Rule:
    """The rule for operators along one or several axes (all axes when none is given), which keep or drop these axes."""

    def rule(node: fx.Node, role: Role, held: torch.Tensor, axis: int) -> Axis:
        dims = _argument(node, position, name, default)
        dims = [dims] if isinstance(dims, int) else dims
        used = {d % held.ndim for d in dims} if dims else set(range(held.ndim))
        kept = list(range(held.ndim))
        if _result(node).ndim < held.ndim:
            kept = [d for d in kept if d not in used]
        return MIXED if kept[axis] in used else Along(kept[axis])

    return rule


def reinterpreted(node: fx.Node, role: Role, held: torch.Tensor, axis: int) -> Axis:
    """A view of the bytes in another dtype, which joins or divides places of the last axis."""
    return MIXED if axis == held.ndim - 1 else Along(axis)


def stack(node: fx.Node, role: Role, held: torch.Tensor, axis: int) -> Axis:
    new = _argument(node, 1, "dim", 0) % (held.ndim + 1)
    return MIXED if axis == new else Along(axis - (axis > new))


def first_only(node: fx.Node, role: Role, held: torch.Tensor, axis: int) -> Axis:
    return Along(axis) if role[0] == 0 else WHOLE


def norm(node: fx.Node, role: Role, held: torch.Tensor, axis: int) -> Axis:
    shape: Any = node.args[1]
    lead = _result(node).ndim - len(shape)
    if role[0] == 0:
        return Along(axis) if axis < lead else MIXED
    return WHOLE if axis < lead else Along(axis - lead)


def channels(node: fx.Node, role: Role, held: torch.Tensor, axis: int) -> Axis:
    """prelu, and batch norm with stored statistics: a parameter has one number, or one for each place of axis 1."""
    if role[0] == 0:
        return Along(axis)
    return Along(0) if axis == 1 and held.ndim and expression(held.shape[0]) != 1 else WHOLE


def linear(node: fx.Node, role: Role, held: torch.Tensor, axis: int) -> Axis:
    last = _result(node).ndim - 1
    if role[0] == 0:
        return Along(axis) if axis < last else WHOLE
    return Along(0) if axis == last else WHOLE


def matmul(node: fx.Node, role: Role, held: torch.Tensor, axis: int) -> Axis:
    place = role[0]
    if node.target in ADDED_PRODUCTS:
        if place == 0:
            return broadcast(node, role, held, axis)
        place -= 1
    if place not in (0, 1):
        return MIXED
    left, right = (_rank_of(a) for a in node.args[role[0] - place : role[0] - place + 2])
    rank = _result(node).ndim
    column = rank - 1 if right > 1 else None
    row = rank - 1 - (right > 1) if left > 1 else None
    if axis == row:
        return Along(held.ndim - 2) if place == 0 else WHOLE
    if axis == column:
        return Along(held.ndim - 1) if place == 1 else WHOLE
    matrices = (left > 1) + (right > 1)
    return _aligned(held, axis, rank - matrices - max(held.ndim - 2, 0))


def attention(node: fx.Node, role: Role, held: torch.Tensor, axis: int) -> Axis:
    """Attention of queries, keys, values and a mask, without the causal mask."""
    rank = _result(node).ndim
    if axis < rank - 2:
        return broadcast(node, role, held, axis)
    queries, mask = role[0] == 0, role[0] in (3, -1)
    if axis == rank - 2:
        return broadcast(node, role, held, axis) if queries or mask else WHOLE
    return Along(held.ndim - 1) if role[0] == 2 else WHOLE


def embedding(node: fx.Node, role: Role, held: torch.Tensor, axis: int) -> Axis:
    ids = _rank_of(node.args[1])
    if role[0] == 0:
        return WHOLE if axis < ids else Along(axis - ids + 1)
    return Along(axis) if axis < ids else WHOLE


def index_select(node: fx.Node, role: Role, held: torch.Tensor, axis: int) -> Axis:
    dim = node.args[1] % _result(node).ndim  # type: ignore[operator]
    if role[0] == 0:
        return WHOLE if axis == dim else Along(axis)
    return Along(0) if axis == dim else WHOLE


def gather(node: fx.Node, role: Role, held: torch.Tensor, axis: int) -> Axis:
    dim = node.args[1] % held.ndim  # type: ignore[operator]
    return WHOLE if role[0] == 0 and axis == dim else Along(axis)


def index(node: fx.Node, role: Role, held: torch.Tensor, axis: int) -> Axis:
    picks: Any = node.args[1]
    given = [i for i, pick in enumerate(picks) if pick is not None]
    if given != list(range(given[0], given[-1] + 1)):
        return MIXED  # the axes of the indices come first
    masks = [held_by(picks[i]).dtype is torch.bool for i in given]
    ranks = [_rank_of(picks[i]) for i in given]
    widest = max(1 if mask else rank for mask, rank in zip(masks, ranks, strict=True))
    indexed = sum(rank if mask else 1 for mask, rank in zip(masks, ranks, strict=True))
    within = given[0] <= axis < given[0] + widest
    if role[0] == 0:
        return WHOLE if within else Along(axis if axis < given[0] else axis - widest + indexed)
    if within and any(masks):
        return MIXED  # the number of places depends on values
    return _aligned(held, axis - given[0], widest - held.ndim) if within else WHOLE


def einsum(node: fx.Node, role: Role, held: torch.Tensor, axis: int) -> Axis:
    equation: Any = node.args[0]
    terms, arrow, result = equation.replace(" ", "").partition("->")
    if not arrow or "." in equation:
        return MIXED
    term = terms.split(",")[role[1]]
    letter = result[axis]
    if term.count(letter) > 1:
        return MIXED
    return Along(term.index(letter)) if letter in term else WHOLE


def recurrent(node: fx.Node, role: Role, held: torch.Tensor, axis: int) -> Axis:
    if _rank_of(node.args[0]) != 3 or role[0] > 1:
        return MIXED
    batch = 0 if _argument(node, 8, "batch_first") else 1
    if axis != batch:
        return MIXED
    return Along(batch if role[0] == 0 else 1)


def one_hot(node: fx.Node, role: Role, held: torch.Tensor, axis: int) -> Axis:
    return Along(axis) if axis < held.ndim else MIXED
