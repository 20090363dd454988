"""What a match hands to the rewrite: parameters that are there or are to be made, and activations made of them."""

from __future__ import annotations

import dataclasses

import torch
from torch import fx

from recfx.pipeline import PassContext


@dataclasses.dataclass(frozen=True, eq=False)
class Fresh:
    """A parameter that does not exist yet and is stored when the rewrite is made."""

    stem: str
    tensor: torch.Tensor


Param = fx.Node | Fresh


@dataclasses.dataclass(frozen=True, eq=False)
class Activation:
    """An activation found behind a value.

    Attributes:
        output: The node that holds the activated value.
        nodes: All nodes between the value and the output, the output included.
        name: A name of `recfx.ops.mlp.ACTIVATIONS`.
        slope: PReLU's slope, Dice's alpha.
        gate_scale: Dice's norm as a scale and a shift.
        gate_shift: The shift.
        number: Slope of leaky ReLU; what the norm of a Dice over rows adds to the variance.
    """

    output: fx.Node
    nodes: frozenset[fx.Node]
    name: str
    slope: Param | None = None
    gate_scale: Param | None = None
    gate_shift: Param | None = None
    number: float = 0.0


def flat(ctx: PassContext, read: fx.Node) -> Param:
    """A constant as a vector: itself when it is one already."""
    tensor = ctx.stored(read)
    return read if tensor.ndim == 1 else Fresh(f"{read.target}_flat", tensor.detach().reshape(-1))
