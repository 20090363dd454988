"""Rewriting of a linear's weights, for the folds into linears and tables."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import fx

from recfx.ir.access import argument_of
from recfx.passes._match import argument, value
from recfx.pipeline import Miss, PassContext

_aten = torch.ops.aten


@dataclasses.dataclass(frozen=True)
class Linear:
    """A linear with constant weights of its own.

    Attributes:
        node: The operator.
        weight: [N, K].
        bias: [N], or None.
    """

    node: fx.Node
    weight: torch.Tensor
    bias: torch.Tensor | None

    @property
    def bias64(self) -> torch.Tensor:
        """The bias in float64, zeros where the linear has none."""
        return self.weight.new_zeros(len(self.weight)).double() if self.bias is None else self.bias.double()


def match_linear(ctx: PassContext, node: Any) -> Linear | Miss:
    """The linear at a node, or why it cannot be rewritten."""
    if not isinstance(node, fx.Node) or node.target is not _aten.linear.default:
        return Miss("it is not a linear", node if isinstance(node, fx.Node) else None)
    weight, bias = ctx.tensor(node.args[1]), ctx.tensor(argument(node, 2, "bias"))
    if weight is None or (bias is None and argument(node, 2, "bias") is not None):
        return Miss("its weight or bias is computed", node)
    if weight.ndim != 2 or not weight.is_floating_point():
        return Miss("its weight is not a floating-point matrix", node)
    if not read_once(ctx, node.args[1]):
        return Miss("its weight is shared, and a changed copy would take further memory", node)
    return Linear(node, weight.detach(), None if bias is None else bias.detach())


def read_once(ctx: PassContext, read: Any) -> bool:
    """Whether the tensor behind a read of state has one use only, under all its names together."""
    tensor = ctx.tensor(read)
    return tensor is not None and sum(len(other.users) for other in ctx.reads_of(tensor)) == 1


def rounded(exact: torch.Tensor, dtype: torch.dtype, *, like: torch.Tensor) -> torch.Tensor | Miss:
    """New weights rounded from float64; a Miss if they overflow or underflow in the dtype.

    Args:
        exact: The new weights, float64.
        dtype: The dtype to round to.
        like: The weights to be replaced. If some are infinite or NaN, new ones may be as well.
    """
    result = exact.to(dtype).contiguous()
    if bool(like.isfinite().all()) and not bool(result.isfinite().all()):
        return Miss("the folded weights would overflow")
    if bool(((exact != 0) & (result.abs() < torch.finfo(dtype).tiny)).any()):
        return Miss("the folded weights would underflow")
    return result


def call_linear(
    ctx: PassContext, source: fx.Node, like: Linear, weight: torch.Tensor, bias: torch.Tensor
) -> fx.Node | Miss:
    """Inserts a linear with new weights, rounded from float64; a Miss if they overflow or underflow."""
    name = str(argument_of(like.node, 1, fx.Node).target)
    dtype = like.weight.dtype
    new_weight = rounded(weight, dtype, like=like.weight)
    if isinstance(new_weight, Miss):
        return new_weight
    new_bias = rounded(bias, dtype, like=like.weight)
    if isinstance(new_bias, Miss):
        return new_bias
    parameters = (
        ctx.constant(f"{name}_folded", new_weight),
        ctx.constant(f"{name.removesuffix('weight')}bias_folded", new_bias),
    )
    return ctx.call(_aten.linear.default, source, *parameters)


def channel_constant(ctx: PassContext, operand: Any, channels: int) -> torch.Tensor | None:
    """A constant that acts on the last dimension alone, as float64 [channels]; None for anything else.

    Args:
        ctx: The pass context.
        operand: A number, or a read of state.
        channels: Size of the last dimension.
    """
    if isinstance(operand, int | float) and not isinstance(operand, bool):
        return torch.full((channels,), float(operand), dtype=torch.float64)
    tensor = ctx.tensor(operand)
    if tensor is None or not tensor.is_floating_point():
        return None
    sizes = tuple(tensor.shape)
    if tensor.numel() == 1:
        return tensor.detach().double().reshape(1).expand(channels).clone()
    if sizes and sizes[-1] == channels and tensor.numel() == channels:
        return tensor.detach().double().reshape(channels)
    return None


def keeps_shape_and_dtype(before: fx.Node, after: fx.Node) -> bool:
    """Whether an elementwise operator with a constant did not broadcast or promote its input."""
    a, b = value(before), value(after)
    return (
        a is not None
        and b is not None
        and a.dtype is b.dtype
        and [str(s) for s in a.shape] == [str(s) for s in b.shape]
    )
