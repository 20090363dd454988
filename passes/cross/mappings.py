"""The spellings of layers x -> act(W x + b) in models, on rows [B, D] or columns [B, D, 1], with linears or products."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import fx

from recfx.ir.op_sets import MATRIX_PRODUCTS
from recfx.passes._match import argument, same_shape, value
from recfx.passes.mlp.epilogue import ACTIVATIONS
from recfx.pipeline import PassContext

_aten = torch.ops.aten
#: Views of state that the matcher follows, so that experts may be parts of one parameter.
_PARTS = {
    _aten.select.int, _aten.slice.Tensor, _aten.permute.default,
    _aten.unsqueeze.default, _aten.squeeze.dim, _aten.reshape.default,
}  # fmt: skip
DEEPEST = 4  # layers of one expert; DCN-Mix has three
Act = tuple[Any, tuple[Any, ...], tuple[Any, ...]]


@dataclasses.dataclass(frozen=True, eq=False)
class Mapping:
    """x -> act(W x + b).

    Attributes:
        weight: [N, K].
        bias: [N], or None.
        act: Operator, further arguments and keyword arguments; None for none.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    act: Act | None = None


def plain(node: Any) -> Any:
    """The value behind added or dropped dimensions of size 1 after its columns."""
    while isinstance(node, fx.Node):
        source: Any = node.args[0] if node.args else None
        held = value(source)
        if held is None:
            return node
        opens = node.target is _aten.unsqueeze.default and held.ndim == 2 and node.args[1] in (2, -1)
        closes = (
            node.target is _aten.squeeze.dim and held.ndim == 3 and node.args[1] in (2, -1) and is_single(held.shape[2])
        )
        if not opens and not closes:
            return node
        node = source
    return node


def constant(ctx: PassContext, node: Any) -> torch.Tensor | None:
    """The tensor of state or of a view of state."""
    if not isinstance(node, fx.Node):
        return None
    if node.op == "get_attr":
        tensor = ctx.tensor(node)
        return None if tensor is None else tensor.detach()
    target: Any = node.target
    if target not in _PARTS or len(node.all_input_nodes) != 1:
        return None
    source = constant(ctx, node.args[0])
    if source is None:
        return None
    result: torch.Tensor = target(source, *node.args[1:], **node.kwargs)
    return result


def is_single(size: Any) -> bool:
    return isinstance(size, int) and size == 1


def is_vector(held: torch.Tensor) -> bool:
    """Whether a tensor is floating-point rows [B, D] or columns [B, D, 1]."""
    return (
        held.is_floating_point()
        and held.ndim > 0
        and isinstance(held.shape[-1], int)
        and (held.ndim == 2 or (held.ndim == 3 and is_single(held.shape[2]) and isinstance(held.shape[1], int)))
    )


def same_rows(a: fx.Node, b: fx.Node) -> bool:
    """Whether two values have the same shape and dtype."""
    left, right = value(a), value(b)
    return left is not None and right is not None and left.dtype is right.dtype and same_shape(left, right)


def bias_of(mapping: Mapping) -> torch.Tensor:
    """A mapping's bias, zeros where it has none."""
    return mapping.weight.new_zeros(len(mapping.weight)) if mapping.bias is None else mapping.bias


def beside(rows: Sequence[Mapping]) -> Mapping:
    """Several mappings of one input as one. If some have a bias, the others get zeros."""
    bias = None
    if any(m.bias is not None for m in rows):
        bias = torch.cat([bias_of(m) for m in rows])
    return Mapping(torch.cat([m.weight for m in rows]), bias, rows[0].act)


def path(ctx: PassContext, node: Any, x: fx.Node) -> Iterator[Mapping]:
    """The layers from x to a node, the last first; empty if other operators lie between them."""
    found: list[Mapping] = []
    while (node := plain(node)) is not x:
        step = mapped(ctx, node)
        if step is None or len(found) == DEEPEST:
            return
        node = step[0]
        found.append(step[1])
    yield from found


def mapped(ctx: PassContext, node: Any) -> tuple[fx.Node, Mapping] | None:
    """(input without views, mapping) of a linear or a product with a constant matrix, with the bias and activation behind it."""
    node = plain(node)
    if not isinstance(node, fx.Node):
        return None
    if node.target in ACTIVATIONS and node.all_input_nodes == [node.args[0]]:
        inner = mapped(ctx, node.args[0])
        if inner is None or inner[1].act is not None:
            return None
        act = (node.target, tuple(node.args[1:]), tuple(node.kwargs.items()))
        return inner[0], dataclasses.replace(inner[1], act=act)
    if node.target is _aten.add.Tensor and not node.kwargs and len(node.args) == 2:
        return _with_bias(ctx, node)
    found = _product(ctx, node)
    held = value(node)
    if found is None or held is None or found[1].weight.dtype is not held.dtype:
        return None
    return found


def _with_bias(ctx: PassContext, node: fx.Node) -> tuple[fx.Node, Mapping] | None:
    for given, product in (node.args[:2], node.args[1::-1]):
        bias = constant(ctx, given)
        if bias is None or not isinstance(product, fx.Node):
            continue
        inner = mapped(ctx, product)
        if inner is None or inner[1].act is not None or inner[1].bias is not None:
            continue
        if bias.numel() == len(inner[1].weight) and bias.dtype is inner[1].weight.dtype and same_rows(node, product):
            return inner[0], dataclasses.replace(inner[1], bias=bias.reshape(-1))
    return None


def _product(ctx: PassContext, node: fx.Node) -> tuple[fx.Node, Mapping] | None:
    """A linear on rows, rows times a matrix, or a matrix times a column."""
    if node.target is _aten.linear.default:
        weight, given = constant(ctx, node.args[1]), argument(node, 2, "bias")
        bias, held = constant(ctx, given), value(node.args[0])
        if weight is None or weight.ndim != 2 or (bias is None) != (given is None) or held is None or held.ndim != 2:
            return None
        return plain(node.args[0]), Mapping(weight, bias)
    if node.target not in MATRIX_PRODUCTS:
        return None
    left, right = constant(ctx, node.args[0]), constant(ctx, node.args[1])
    held = value(node)
    if left is not None and left.ndim == 2 and held is not None and held.ndim == 3 and is_single(held.shape[2]):
        return plain(node.args[1]), Mapping(left, None)
    if right is not None and right.ndim == 2 and held is not None and held.ndim == 2:
        return plain(node.args[0]), Mapping(right.t(), None)
    return None
