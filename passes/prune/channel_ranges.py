"""The range of values of each channel, for all inputs: from it follow channels that are constant, such as neurons that ReLU sets to zero.

Ranges are intervals of real numbers along the last axis of a value. Sums of weights are taken in float64.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from recfx.ir.op_sets import BROADCASTS, COPIES, EMBEDDING_BAGS, REGROUPINGS
from recfx.passes._batchnorm import stored_affine
from recfx.passes._match import argument, is_eval_dropout, permutation, value
from recfx.pipeline import Miss, PassContext

_aten = torch.ops.aten

#: The largest parameter that is not a table and whose range is read.
_MOST_NUMBERS = 1 << 20
#: Most channels have a number other than zero among their first ones.
_LOOKED_AT_FIRST = 16


@dataclasses.dataclass(frozen=True)
class Range:
    """Bounds of the channels along the last axis of a value, float64 [C] each. Values that are infinite or NaN are not covered."""

    low: Tensor
    high: Tensor

    @property
    def constant(self) -> Tensor:
        """Which channels have one value only, [C]."""
        return self.low == self.high


def channel_ranges(ctx: PassContext) -> dict[fx.Node, Range]:
    """The ranges of values of the program; a node without an entry has no known range."""
    found: dict[fx.Node, Range] = {}
    for node in ctx.graph.nodes:
        held = value(node)
        if held is None or not held.ndim or not isinstance(held.shape[-1], int) or held.dtype not in _DTYPES:
            continue
        if node.op == "call_function":
            new = _of_call(ctx, node, held.shape[-1], found)
        else:
            new = _of_state(ctx, node) if node.op == "get_attr" and node.users else None
        if new is not None and len(new.low) == held.shape[-1] and not bool((new.low.isinf() & new.high.isinf()).all()):
            found[node] = new
    return found


_DTYPES = (torch.float32, torch.float64)
_Found = dict[fx.Node, Range]


def _of_state(ctx: PassContext, node: fx.Node) -> Range | None:
    tensor = ctx.stored(node).detach()
    if (
        not tensor.is_floating_point()
        or not 0 < tensor.numel() <= _MOST_NUMBERS
        or not any(user.target in _RULES or user.target in _VIEWS for user in node.users)
    ):
        return None
    rows = tensor.double().reshape(-1, tensor.shape[-1])
    return _checked(rows.amin(0), rows.amax(0))


def _checked(low: Tensor, high: Tensor) -> Range:
    """A range, unbounded where the bounds are NaN."""
    return Range(low.nan_to_num(-torch.inf, torch.inf, -torch.inf), high.nan_to_num(torch.inf, torch.inf, -torch.inf))


def _unbounded(channels: int) -> Range:
    bound = torch.full((channels,), torch.inf, dtype=torch.float64)
    return Range(-bound, bound)


def _of_call(ctx: PassContext, node: fx.Node, channels: int, found: _Found) -> Range | None:
    target: Any = node.target
    if target in _VIEWS or is_eval_dropout(node) or permutation(node) is not None:
        return _carried(node, channels, found)
    if target in _MONOTONE:
        return _monotone(node, found)
    rule = _RULES.get(target)
    return None if rule is None else rule(ctx, node, found)


def _carried(node: fx.Node, channels: int, found: _Found) -> Range | None:
    source: Any = node.args[0]
    order = permutation(node)
    if source not in found or len(found[source].low) != channels:
        return None
    return found[source] if order is None or order[-1] == len(order) - 1 else None


def _monotone(node: fx.Node, found: _Found) -> Range | None:
    """A function that never falls, applied to both bounds; functions with values of at least zero are bounded without a known operand."""
    source: Any = node.args[0]
    held = value(source)
    if held is None or (node.target is _aten.leaky_relu.default and argument(node, 1, "negative_slope", 0.01) < 0):
        return None
    before = found.get(source) or _unbounded(int(held.shape[-1]))
    target: Any = node.target
    low, high = (target(bound, *node.args[1:], **node.kwargs) for bound in (before.low, before.high))
    return _checked(low, high)


def _linear(ctx: PassContext, node: fx.Node, found: _Found) -> Range | None:
    source: Any = node.args[0]
    weight, bias_read = ctx.tensor(node.args[1]), argument(node, 2, "bias")
    bias = ctx.tensor(bias_read)
    if weight is None or weight.ndim != 2 or (bias is None and bias_read is not None):
        return None
    weight = weight.detach()
    if source not in found and not bool((weight[:, :_LOOKED_AT_FIRST] == 0).all(1).any()):
        return None  # of an unknown operand, only products with zero are bounded
    before = found.get(source) or _unbounded(weight.shape[1])
    ends = _unbounded(len(weight))
    rows = _bounded_rows(weight, before)
    if len(rows):
        exact = weight[rows].double()
        shift = 0.0 if bias is None else bias.detach()[rows].double()
        for end, least, most in ((ends.low, before.low, before.high), (ends.high, before.high, before.low)):
            products = torch.where(exact == 0, 0.0, exact * torch.where(exact > 0, least, most))
            end[rows] = products.sum(1) + shift
    return _checked(ends.low, ends.high)


def _bounded_rows(weight: Tensor, before: Range) -> Tensor:
    """The rows of a weight whose products with the operand have a bound on at least one side; NaN counts as unbounded."""
    rows = torch.arange(len(weight))
    open_low, open_high = before.low.isinf(), before.high.isinf()
    for columns in (slice(0, _LOOKED_AT_FIRST), slice(None)):
        part, below, above = weight[rows, columns], open_low[columns], open_high[columns]
        up, down = part > 0, part < 0
        no_low = ((up & below) | (down & above)).any(1)
        no_high = ((up & above) | (down & below)).any(1)
        rows = rows[~((no_low & no_high) | part.isnan().any(1))]
    return rows


def _batch_norm(ctx: PassContext, node: fx.Node, found: _Found) -> Range | None:
    source: Any = node.args[0]
    held = value(source)
    affine = stored_affine(ctx, node)
    if held is None or held.ndim != 2 or isinstance(affine, Miss):
        return None
    before = found.get(source) or _unbounded(len(affine.scale))
    ends = torch.stack([before.low, before.high])
    ends = torch.where(affine.scale == 0, 0.0, ends * affine.scale) + affine.shift
    return _checked(ends.amin(0), ends.amax(0))


def _sum(ctx: PassContext, node: fx.Node, found: _Found) -> Range | None:
    operands = _operands(node, found)
    if operands is None or node.kwargs.get("alpha", 1) != 1:
        return None
    first, second = operands
    if node.target is _aten.sub.Tensor:
        second = Range(-second.high, -second.low)
    return _checked(first.low + second.low, first.high + second.high)


def _product(ctx: PassContext, node: fx.Node, found: _Found) -> Range | None:
    operands = _operands(node, found)
    if operands is None:
        return None
    first, second = operands
    corners = torch.stack([a * b for a in (first.low, first.high) for b in (second.low, second.high)])
    zero = ((first.low == 0) & (first.high == 0)) | ((second.low == 0) & (second.high == 0))
    corners = torch.where(zero, 0.0, corners)
    unknown = corners.isnan().any(0)
    return Range(torch.where(unknown, -torch.inf, corners.amin(0)), torch.where(unknown, torch.inf, corners.amax(0)))


def _operands(node: fx.Node, found: _Found) -> tuple[Range, Range] | None:
    """The ranges of two operands, with the channels of the result; None if both are unknown or one is broadcast along channels."""
    held = value(node)
    channels = 0 if held is None else int(held.shape[-1])
    ranges = []
    if all(isinstance(operand, fx.Node) and operand not in found for operand in node.args[:2]):
        return None
    for operand in node.args[:2]:
        if isinstance(operand, int | float):
            number = torch.full((channels,), float(operand), dtype=torch.float64)
            ranges.append(Range(number, number))
            continue
        shown = value(operand)
        known = found.get(operand) if isinstance(operand, fx.Node) else None
        if shown is None or not shown.ndim or shown.shape[-1] != channels:
            known = None
        ranges.append(known or _unbounded(channels))
    return ranges[0], ranges[1]


def _cat(ctx: PassContext, node: fx.Node, found: _Found) -> Range | None:
    parts: Any = node.args[0]
    held = value(node)
    shown = [value(part) for part in parts]
    if held is None or argument(node, 1, "dim", 0) % held.ndim != held.ndim - 1:
        return None
    if any(part is None or part.ndim != held.ndim for part in shown) or not any(part in found for part in parts):
        return None
    ranges = [found.get(part) or _unbounded(int(own.shape[-1])) for part, own in zip(parts, shown, strict=True)]  # type: ignore[union-attr]
    return Range(torch.cat([r.low for r in ranges]), torch.cat([r.high for r in ranges]))


def _embedding(ctx: PassContext, node: fx.Node, found: _Found) -> Range | None:
    lookup: Any = node.args[0] if node.target is operator.getitem else node
    if lookup.target not in _TABLES or (node is not lookup and node.args[1] != 0):
        return None
    table = ctx.tensor(lookup.args[0])
    if table is None or table.ndim != 2:
        return None
    zero = zero_slices(table, 1)
    bound = torch.where(zero, 0.0, torch.inf).double()
    return Range(-bound, bound)


def zero_slices(tensor: Tensor, axis: int) -> Tensor:
    """Which places of an axis have zeros only. Of most tensors, a few numbers of each place are read."""
    places = tensor.detach().movedim(axis, 0)
    few = places[(slice(None), *[slice(_LOOKED_AT_FIRST)] * (places.ndim - 1))]
    zero = (few == 0).flatten(1).all(1)
    (rest,) = zero.nonzero(as_tuple=True)
    zero[rest] = (places[rest] == 0).flatten(1).all(1)
    return zero


_TABLES = (_aten.embedding.default, *EMBEDDING_BAGS)
_VIEWS = frozenset((*REGROUPINGS, *COPIES, *BROADCASTS))
_MONOTONE = frozenset(
    (
        *(_aten.relu.default, _aten.sigmoid.default, _aten.tanh.default, _aten.leaky_relu.default),
        *(_aten.relu6.default, _aten.hardtanh.default, _aten.elu.default, _aten.clamp_min.default),
        *(_aten.softplus.default, _aten.selu.default),
    )
)
_RULES: dict[Any, Callable[[PassContext, fx.Node, _Found], Range | None]] = {
    _aten.linear.default: _linear,
    _aten.batch_norm.default: _batch_norm,
    _aten.add.Tensor: _sum,
    _aten.sub.Tensor: _sum,
    _aten.mul.Tensor: _product,
    _aten.cat.default: _cat,
    _aten.embedding.default: _embedding,
    operator.getitem: _embedding,
}
#: Operators that hand on the channels of an operand one by one, so that no channel is summed into others there.
CHANNELWISE = _VIEWS | _MONOTONE | _RULES.keys() - {_aten.linear.default}
