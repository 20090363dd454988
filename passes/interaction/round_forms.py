"""Operators that treat every row alike, as one round of a loop runs them: what they read, and how one operator runs all rounds.

A round has values [B, ...]. The values of k rounds are held as one tensor [B, k, ...].
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from recfx.analysis.axis_maps import is_pointwise, overloads
from recfx.ir.access import items_of, tensor_of
from recfx.ir.op_sets import ADDITIONS, CASTS, COPIES, JOINS, MATRIX_PRODUCTS, PERMUTATIONS, REGROUPINGS, SCALINGS
from recfx.ir.sizes import same_size
from recfx.passes._match import argument, is_random, permutation, value
from recfx.passes.interaction.row_parts import row_length
from recfx.pipeline import PassContext

_aten = torch.ops.aten


@dataclasses.dataclass(frozen=True)
class Form:
    """One operator of a round.

    Attributes:
        key: Equal for operators that one operator can run together, if their operands are joined.
        operands: What the operator reads in this round: values [B, ...], and constants and numbers that are broadcast. Constants that all
            rounds must have in common are not operands; they are a part of the key.
        call: Inserts the operator for all rounds, given its operands for all rounds.
        work: Whether it computes something; False for operators that only arrange elements.
        broadcasts: Whether an operand may have one place for all rounds, [B, 1, ...].
    """

    key: tuple[Any, ...]
    operands: tuple[Any, ...]
    call: Callable[[PassContext, Sequence[Any]], fx.Node]
    work: bool = True
    broadcasts: bool = False


def form_of(ctx: PassContext, node: Any) -> Form | None:
    """The form of an operator; None for an operator that does not treat all rows alike, or that is random."""
    if not isinstance(node, fx.Node) or node.op != "call_function" or row_length(node) is None:
        return None
    rule = _RULES.get(node.target, _elementwise if is_pointwise(node) or node.target in CASTS else None)
    form = None if rule is None or is_random(node) or _reads(node.kwargs.values()) else rule(ctx, node)
    if form is None or any(isinstance(x, fx.Node) and value(x) is None for x in form.operands):
        return None
    held = tensor_of(node)
    key = (node.target, *form.key, tuple(held.shape[1:]), held.dtype, tuple(_key(ctx, x) for x in form.operands))
    return dataclasses.replace(form, key=key)


def _key(ctx: PassContext, operand: Any) -> Any:
    if not isinstance(operand, fx.Node):
        return "number"
    held, constant = tensor_of(operand), ctx.tensor(operand) is not None
    return constant, tuple(held.shape[not constant :]), held.dtype


def _rows(operand: Any, node: fx.Node, *, rank: int = 1) -> bool:
    """Whether an operand is a value [B, ...] of at least this rank, with the rows of the result."""
    held, result = value(operand), tensor_of(node)
    return (
        held is not None
        and held.ndim >= rank
        and row_length(operand) is not None
        and same_size(held.shape[0], result.shape[0])
    )


def _reads(arguments: Any) -> bool:
    """Whether arguments contain a node."""
    return any(
        isinstance(x, fx.Node) or (isinstance(x, list | tuple) and any(isinstance(y, fx.Node) for y in x))
        for x in arguments
    )


def _frozen(argument: Any) -> Any:
    return tuple(argument) if isinstance(argument, list | tuple) else argument


def _options(node: fx.Node, start: int) -> tuple[Any, ...]:
    """The arguments from a position on, and the keyword arguments, as a part of a key."""
    return *map(_frozen, node.args[start:]), *sorted((name, _frozen(given)) for name, given in node.kwargs.items())


def _elementwise(ctx: PassContext, node: fx.Node) -> Form | None:
    """Operators between elements at the same place. An operand of a round is broadcast in the dimensions of a row only."""
    rank, places, rest = tensor_of(node).ndim, [], []
    arithmetic = node.target in ADDITIONS or node.target in SCALINGS
    for place, given in enumerate(node.args):
        if isinstance(given, fx.Node) or (
            arithmetic and isinstance(given, int | float) and not isinstance(given, bool)
        ):
            places.append(place)
        elif _reads([given]):
            return None
        else:
            rest.append((place, _frozen(given)))
    operands = [node.args[place] for place in places]
    rows = [x for x in operands if isinstance(x, fx.Node) and ctx.tensor(x) is None]
    if not rows or not all(_rows(x, node) and tensor_of(x).ndim == rank for x in rows):
        return None
    if not all(_fits_row(ctx, x, rank) for x in operands if x not in rows):
        return None

    def call(ctx: PassContext, operands: Sequence[Any]) -> fx.Node:
        args = list(node.args)
        for place, operand in zip(places, operands, strict=True):
            args[place] = operand
        return ctx.call(node.target, *args, **node.kwargs)

    return Form((*rest, *_options(node, len(node.args))), tuple(operands), call, broadcasts=True)


def _fits_row(ctx: PassContext, operand: Any, rank: int) -> bool:
    """Whether a constant or a number has no dimension for the batch, or one place there."""
    tensor = ctx.tensor(operand)
    return tensor is None or tensor.ndim < rank or (tensor.ndim == rank and tensor.shape[0] == 1)


def _with_constants(ctx: PassContext, node: fx.Node, places: Sequence[int], target: Any = None) -> Form | None:
    """Operators of a value and of constants that all rounds have in common."""
    constants = [node.args[place] for place in places if place < len(node.args)]
    tensors = [ctx.tensor(x) for x in constants]
    if any(isinstance(x, fx.Node) and tensor is None for x, tensor in zip(constants, tensors, strict=True)):
        return None
    others = [x for place, x in enumerate(node.args) if place and place not in places]

    def call(ctx: PassContext, operands: Sequence[Any]) -> fx.Node:
        given = [ctx.read(str(x.target)) if isinstance(x, fx.Node) else x for x in node.args[1:]]
        return ctx.call(target or node.target, operands[0], *given, **node.kwargs)

    return Form((*map(id, tensors), *map(_frozen, others), *_options(node, len(node.args))), (node.args[0],), call)


def _linear(ctx: PassContext, node: fx.Node) -> Form | None:
    return _with_constants(ctx, node, (1, 2)) if _rows(node.args[0], node, rank=2) else None


def _matmul(ctx: PassContext, node: fx.Node) -> Form | None:
    """Products with a constant matrix or vector."""
    weight = ctx.tensor(node.args[1])
    if weight is None or weight.ndim not in (1, 2) or not _rows(node.args[0], node, rank=2):
        return None
    return _with_constants(ctx, node, (1,), _aten.matmul.default)


def _norm(ctx: PassContext, node: fx.Node) -> Form | None:
    """Layer norm and RMS norm over dimensions of a row."""
    if not _rows(node.args[0], node, rank=len(items_of(node, 1)) + 1):
        return None
    return _with_constants(ctx, node, (2, 3) if node.target is _aten.layer_norm.default else (2,))


def _along(work: bool) -> Callable[[PassContext, fx.Node], Form | None]:
    """Operators along dimensions of a row, which the second argument lists."""

    def rule(ctx: PassContext, node: fx.Node) -> Form | None:
        if not _rows(node.args[0], node) or len(node.args) < 2 or _reads(node.args[2:]):
            return None
        rank = tensor_of(node.args[0]).ndim
        given: Any = node.args[1]
        dims = [d % rank for d in ([given] if isinstance(given, int) else given or [])]
        if not dims or 0 in dims:
            return None
        moved = [d + 1 for d in dims]

        def call(ctx: PassContext, operands: Sequence[Any]) -> fx.Node:
            dim = moved[0] if isinstance(given, int) else moved
            return ctx.call(node.target, operands[0], dim, *node.args[2:], **node.kwargs)

        return Form((tuple(dims), *_options(node, 2)), (node.args[0],), call, work)

    return rule


def _regrouping(ctx: PassContext, node: fx.Node) -> Form | None:
    """Reshapes and copies that keep the elements of a row."""
    source, sizes = node.args[0], list(tensor_of(node).shape[1:])
    if not _rows(source, node) or row_length(source) != row_length(node):
        return None

    def call(ctx: PassContext, operands: Sequence[Any]) -> fx.Node:
        held = tensor_of(operands[0])
        if list(held.shape[2:]) == sizes:
            return operands[0]  # type: ignore[no-any-return]
        return ctx.call(_aten.reshape.default, operands[0], [-1, held.shape[1], *sizes])

    return Form((), (source,), call, work=False)


def _permutation(ctx: PassContext, node: fx.Node) -> Form | None:
    order = permutation(node)
    if order is None or order[0] != 0:
        return None

    def call(ctx: PassContext, operands: Sequence[Any]) -> fx.Node:
        return ctx.call(_aten.permute.default, operands[0], [0, 1, *(d + 1 for d in order[1:])])

    return Form((tuple(order),), (node.args[0],), call, work=False)


def _expansion(ctx: PassContext, node: fx.Node) -> Form | None:
    """expand of dimensions of a row."""
    held = tensor_of(node)
    if not _rows(node.args[0], node) or tensor_of(node.args[0]).ndim != held.ndim:
        return None

    def call(ctx: PassContext, operands: Sequence[Any]) -> fx.Node:
        return ctx.call(_aten.expand.default, operands[0], [-1, -1, *held.shape[1:]])

    return Form((), (node.args[0],), call, work=False)


def _join(ctx: PassContext, node: fx.Node) -> Form | None:
    """Concatenations and stacks inside a row."""
    parts = items_of(node, 0)
    dim = argument(node, 1, "dim", 0) % tensor_of(node).ndim
    if dim == 0 or not all(_rows(x, node) and ctx.tensor(x) is None for x in parts):
        return None
    if len({tensor_of(x).ndim for x in parts}) > 1:
        return None

    def call(ctx: PassContext, operands: Sequence[Any]) -> fx.Node:
        return ctx.call(node.target, list(operands), dim + 1)

    return Form((dim,), tuple(parts), call, work=False)


_RULES: dict[Any, Callable[[PassContext, fx.Node], Form | None]] = {
    _aten.linear.default: _linear,
    **dict.fromkeys(MATRIX_PRODUCTS, _matmul),
    **dict.fromkeys(overloads("layer_norm rms_norm"), _norm),
    **dict.fromkeys(overloads("softmax.int log_softmax.int sum.dim_IntList mean.dim amax amin"), _along(work=True)),
    **dict.fromkeys(overloads("select.int slice.Tensor"), _along(work=False)),
    **dict.fromkeys((*REGROUPINGS, *COPIES), _regrouping),
    **dict.fromkeys(PERMUTATIONS, _permutation),
    _aten.expand.default: _expansion,
    **dict.fromkeys(JOINS, _join),
}
