"""Parameters and activations that a match passes to the rewrite; parameters exist already or are stored by the rewrite."""

from __future__ import annotations

import dataclasses

import torch
from torch import fx

from recfx.pipeline import PassContext


@dataclasses.dataclass(frozen=True, eq=False)
class Fresh:
    """A new parameter, which the rewrite stores under a name that starts with `stem`."""

    stem: str
    tensor: torch.Tensor


Param = fx.Node | Fresh


@dataclasses.dataclass(frozen=True, eq=False)
class Activation:
    """An activation that is applied to a value.

    Attributes:
        output: The node that holds the activated value.
        nodes: All nodes between the value and the output, the output included.
        name: A name of `recfx.ops.mlp.ACTIVATIONS`.
        slope: PReLU's slope, Dice's alpha.
        gate_scale: The scale of Dice's norm.
        gate_shift: The shift of Dice's norm.
        number: Slope of leaky ReLU; epsilon of a Dice with a norm over rows.
    """

    output: fx.Node
    nodes: frozenset[fx.Node]
    name: str
    slope: Param | None = None
    gate_scale: Param | None = None
    gate_shift: Param | None = None
    number: float = 0.0


def flat(ctx: PassContext, read: fx.Node) -> Param:
    """A constant as a vector; the read itself if the constant is a vector."""
    tensor = ctx.stored(read)
    return read if tensor.ndim == 1 else Fresh(f"{read.target}_flat", tensor.detach().reshape(-1))
