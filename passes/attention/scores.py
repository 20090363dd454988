"""Target attention in a graph: the operators behind the MLP's single column, from the scores to the weighted sum of the keys."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import fx

from recfx.ir.access import argument_of, tensor_of
from recfx.ir.op_sets import FILLS_LIKE, MATRIX_PRODUCTS, SCALINGS
from recfx.ir.sizes import same_size
from recfx.ops.attention import FILL, ZERO
from recfx.passes._match import argument, only_user, value, without_negations
from recfx.pipeline import PassContext

_aten = torch.ops.aten
_SHAPE_OPS = (_aten.reshape.default, _aten.squeeze.dim, _aten.unsqueeze.default, _aten.permute.default)


@dataclasses.dataclass
class Scores:
    """The operators behind the scores, up to `output`; see `recfx.ops.attention.reference` for the other fields.

    Attributes:
        output: The node that holds the scores, the weights or the pooled keys.
        mask: bool, True for items.
        inverted: Whether the mask is False for items instead.
        pooled: Whether the output is the weighted sum of the keys.
    """

    output: fx.Node
    softmax: bool = False
    scale: float = 1.0
    masking: int = 0
    fill: float = 0.0
    mask: fx.Node | None = None
    inverted: bool = False
    pooled: bool = False


def follow_scores(ctx: PassContext, scores: fx.Node, keys: fx.Node, shared: fx.Node) -> Scores | None:
    """The longest run of scale, mask, softmax, mask and weighted sum behind the single column of the MLP."""
    held = tensor_of(keys)
    batch, length = held.shape[:2]
    found = Scores(scores)
    start = _aligned(value(scores), batch, length)
    best = dataclasses.replace(found) if start else None
    current = scores
    while (user := _reader(current)) is not None:
        if pooled := _pooled(user, current, (keys, shared), length):
            return dataclasses.replace(found, output=pooled, pooled=True)
        if user.target in _SHAPE_OPS and _aligned(value(user), batch, length):
            start = True
        elif not start or not (_scaled(user, found) or _masked(ctx, user, current, found) or _normalised(user, found)):
            break
        found.output = current = user
        best = dataclasses.replace(found)
    return best


def _reader(scores: fx.Node) -> fx.Node | None:
    """The only operator that reads the values of the scores. Fills of their shape, such as the zeros of a `where`, may read the size."""
    sizes = [u for u in scores.users if u.target in FILLS_LIKE]
    readers = [u for u in scores.users if u not in sizes]
    if len(readers) != 1:
        return None
    for like in sizes:
        end = only_user(like)
        if end is not None and end is not readers[0] and end.target is _aten.mul.Tensor:
            end = only_user(end)
        if end is not readers[0]:
            return None
    return readers[0]


def _aligned(held: torch.Tensor | None, batch: Any, length: Any) -> bool:
    """Whether a tensor is [B, L], [B, 1, L] or [B, L, 1]: the scores, one after another."""
    if held is None or held.ndim not in (2, 3) or not same_size(held.shape[0], batch):
        return False
    sizes = list(held.shape[1:])
    return any(
        len(sizes) == len(form) and all(same_size(a, b) for a, b in zip(sizes, form, strict=True))
        for form in ((length,), (1, length), (length, 1))
    )


def _length_dim(held: torch.Tensor) -> int:
    """The dimension along the keys of an aligned tensor."""
    return 2 if held.ndim == 3 and held.shape[1] == 1 else 1


def _scaled(user: fx.Node, found: Scores) -> bool:
    factor: Any = user.args[1] if len(user.args) > 1 else None
    if user.target not in SCALINGS or not isinstance(factor, int | float) or user.kwargs:
        return False
    if found.softmax or found.masking or factor <= 0:
        return False
    found.scale *= float(factor) if user.target is _aten.mul.Tensor else 1.0 / float(factor)
    return True


def _normalised(user: fx.Node, found: Scores) -> bool:
    held = value(user)
    if user.target is not _aten.softmax.int or found.softmax or held is None or argument(user, 2, "dtype") is not None:
        return False
    if found.masking & ZERO:
        return False
    dim: Any = user.args[1]
    if dim % held.ndim != _length_dim(held):
        return False
    found.softmax = True
    return True


def _masked(ctx: PassContext, user: fx.Node, scores: fx.Node, found: Scores) -> bool:
    """Adds a masking of the scores to `found`, before or after the softmax."""
    mask: Any = None
    kind, fill, inverted = FILL, 0.0, False
    if user.target is _aten.where.self and user.args[1] is scores:
        constant = _constant(ctx, user.args[2])
        mask, fill = user.args[0], constant if constant is not None else 0.0
        mask = None if constant is None else mask
    elif user.target is _aten.masked_fill.Scalar and user.args[0] is scores:
        mask, fill, inverted = user.args[1], argument_of(user, 2, float), True
    elif user.target is _aten.mul.Tensor:
        mask = user.args[1] if user.args[0] is scores else user.args[0]
        if isinstance(mask, fx.Node) and mask.target is _aten.to.dtype:
            mask = mask.args[0]
        kind = ZERO
    held, like = value(mask), value(scores)
    if held is None or like is None or held.dtype is not torch.bool or not _broadcasts(held, like):
        return False
    if kind == FILL and (found.softmax or found.masking):
        return False  # `target_attention` fills once, before the softmax
    mask, negated = without_negations(mask)
    inverted ^= negated
    if (
        found.mask is not None and (found.mask, found.inverted) != (_flat_mask(mask), inverted)
    ) or found.masking & kind:
        return False
    found.mask, found.inverted = _flat_mask(mask), inverted
    found.masking |= kind
    found.fill = fill if kind == FILL else found.fill
    return True


def _broadcasts(mask: torch.Tensor, scores: torch.Tensor) -> bool:
    """Whether a mask has the shape of the scores; its batch may be 1."""
    return mask.ndim == scores.ndim and all(
        same_size(a, b) or (i == 0 and a == 1 and isinstance(a, int))
        for i, (a, b) in enumerate(zip(mask.shape, scores.shape, strict=True))
    )


def _flat_mask(mask: fx.Node) -> fx.Node:
    """A mask without the dimension that was added to it."""
    held = value(mask)
    while held is not None and held.ndim == 3 and mask.target is _aten.unsqueeze.default:
        mask = argument_of(mask, 0, fx.Node)
        held = value(mask)
    return mask


def _constant(ctx: PassContext, node: Any) -> float | None:
    """The number that fills a tensor; None if it is not a constant fill."""
    tensor = ctx.tensor(node)
    if tensor is not None:
        return float(tensor.reshape(-1)[0]) if tensor.numel() == 1 and tensor.is_floating_point() else None
    if not isinstance(node, fx.Node):
        return None
    if node.target is _aten.zeros_like.default:
        return 0.0
    if node.target is _aten.ones_like.default:
        return 1.0
    if node.target in (_aten.full_like.default, _aten.full.default, _aten.scalar_tensor.default):
        fill = node.args[0] if node.target is _aten.scalar_tensor.default else node.args[1]
        return float(fill) if isinstance(fill, int | float) else None
    if node.target is _aten.mul.Tensor and isinstance(node.args[1], int | float):
        inner = _constant(ctx, node.args[0])
        return None if inner is None else inner * float(node.args[1])
    return None


def _pooled(user: fx.Node, weights: fx.Node, keys: tuple[fx.Node, fx.Node], length: Any) -> fx.Node | None:
    """The node that holds the weighted sum of the keys, [B, D] or [B, 1, D]."""
    held = value(weights)
    if held is None or held.ndim != 3:
        return None if user.target is not _aten.einsum.default else _einsum_pooled(user, weights, keys)
    if user.target in MATRIX_PRODUCTS:
        row = held.shape[1] == 1 and user.args[0] is weights and user.args[1] in keys
        return _squeezed(user) if row and same_size(held.shape[2], length) else None
    if user.target is not _aten.mul.Tensor or not same_size(held.shape[1], length) or held.shape[2] != 1:
        return None
    other = user.args[1] if user.args[0] is weights else user.args[0]
    summed = only_user(user)
    if other not in keys or summed is None or summed.target is not _aten.sum.dim_IntList:
        return None
    dims: Any = summed.args[1]
    return _squeezed(summed) if [d % 3 for d in dims] == [1] and summed.kwargs.get("dtype") is None else None


def _squeezed(node: fx.Node) -> fx.Node:
    """The only user of a node if it drops the dimension of size 1; otherwise the node."""
    user = only_user(node)
    held = value(node)
    drops = user is not None and user.target is _aten.squeeze.dim and user.args[1] in (1, -2)
    return user if drops and user is not None and held is not None and held.ndim == 3 else node


def _einsum_pooled(user: fx.Node, weights: fx.Node, keys: tuple[fx.Node, fx.Node]) -> fx.Node | None:
    """einsum("bl,bld->bd")."""
    operands: Any = user.args[1]
    inputs, _, output = str(user.args[0]).replace(" ", "").partition("->")
    if (
        len(operands) != 2
        or operands[0] is not weights
        or operands[1] not in keys
        or len(inputs.split(",")[0]) != 2
        or len(inputs) != 6
    ):
        return None
    batch, at, batch2, at2, d = tuple(inputs.replace(",", ""))
    return user if (batch, at, output) == (batch2, at2, batch + d) and len({batch, at, d}) == 3 else None
