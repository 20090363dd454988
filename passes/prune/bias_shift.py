"""Removes channels whose value is a known constant, or is replaced by one: what it adds to a linear goes into the linear's bias."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, fx

from recfx.analysis.channel_groups import ChannelGroups, Mask
from recfx.ir.access import argument_of
from recfx.passes._match import argument
from recfx.passes.prune.remove_channels import remove_channels
from recfx.pipeline import PassContext


def shift_of(ctx: PassContext, linear: fx.Node, places: list[int], values: Tensor) -> Tensor:
    """What constant places of a linear's input add to its result, float64 [N].

    Args:
        ctx: The pass context.
        linear: The linear.
        places: Places along the last axis of its input.
        values: Their values, float64.
    """
    return ctx.stored(linear.args[1]).detach()[:, places].double() @ values


def remove_and_shift(
    ctx: PassContext, found: ChannelGroups, removed: Collection[int], shifts: Mapping[fx.Node, Tensor]
) -> None:
    """Removes channels and adds constants to the biases of linears.

    Args:
        ctx: The pass context.
        found: The coupled channels of the program as it is now.
        removed: Labels of channels.
        shifts: Linear -> what it loses with them, [N] of its original outputs.
    """
    remove_channels(ctx, found, removed)
    for linear, shift in shifts.items():
        if not linear._erased:
            _add_to_bias(ctx, linear, shift, found.kept_along(found.axes(linear)[-1], removed, len(shift)))
    ctx.sweep()


def _add_to_bias(ctx: PassContext, linear: fx.Node, shift: Tensor, kept: Mask | None) -> None:
    read, weight = argument(linear, 2, "bias"), ctx.stored(linear.args[1])
    shift = shift if kept is None else shift[torch.from_numpy(kept)]
    exact = shift if read is None else shift + ctx.stored(read).detach().double()
    if isinstance(read, fx.Node) and len(read.users) == 1 and ctx.reads_of(ctx.stored(read)) == [read]:
        ctx.store([read], exact.to(weight.dtype))
        return
    stem = str(argument_of(linear, 1, fx.Node).target).removesuffix("weight") + "bias_shifted"
    with ctx.before(linear):
        bias = ctx.constant(stem, exact.to(weight.dtype))
    linear.args, linear.kwargs = (*linear.args[:2], bias), {}
