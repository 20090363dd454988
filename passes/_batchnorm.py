"""Batch norm in eval mode as an affine map of each channel."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import fx

from recfx.passes._match import argument
from recfx.pipeline import Miss, PassContext


@dataclasses.dataclass(frozen=True)
class ChannelAffine:
    """x -> scale x + shift, for each channel, in float64."""

    scale: torch.Tensor
    shift: torch.Tensor


def stored_affine(ctx: PassContext, norm: fx.Node) -> ChannelAffine | Miss:
    """The map that a batch norm computes from its running statistics, or why it computes another."""
    if argument(norm, 5, "training") is not False:
        return Miss("it normalises by the batch (training mode)", norm)
    weight, bias, mean, var = (ctx.tensor(a) for a in norm.args[1:5])
    if mean is None or var is None:
        return Miss("it has no running statistics", norm)
    if (weight is None and norm.args[1] is not None) or (bias is None and norm.args[2] is not None):
        return Miss("its weight or bias is computed", norm)
    eps: Any = argument(norm, 7, "eps")
    scale = torch.rsqrt(var.detach().double() + eps)
    if weight is not None:
        scale = scale * weight.detach().double()
    shift = -mean.detach().double() * scale
    if bias is not None:
        shift = shift + bias.detach().double()
    return ChannelAffine(scale, shift)
