"""Bias correction: the mean error of an int8 product, by output channel, goes into the bias.

Layers are corrected in the order of the program, each on the inputs that the corrected layers before it give, so that errors that add up
along a chain are corrected as well (Nagel et al. 2019, "Data-Free Quantization", section 4.2, with measured means).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from recfx.passes.quantize.calibrated_layers import Place, Seen, products_of, run_together
from recfx.pipeline import PassContext


def correct_biases(
    ctx: PassContext, rows: Sequence[list[Any]], seen: Mapping[Place, Seen], biases: Mapping[Place, fx.Node]
) -> None:
    """Corrects the biases of int8 layers.

    Args:
        ctx: The pass context, of a program with int8 layers.
        rows: Flat inputs of some batches.
        seen: The means of the products in float32.
        biases: Matrix -> the read of its bias, which nothing else reads.
    """

    def visit(node: fx.Node, values: Sequence[Mapping[fx.Node, Any]]) -> None:
        for number in itertools.count():
            if not any(place[0] is node and place[1] >= number for place in biases):
                return
            if (node, number) in biases:
                _correct(ctx, (node, number), values, seen[node, number].mean, biases[node, number])

    run_together(ctx.program, rows, visit)


def _correct(
    ctx: PassContext, place: Place, values: Sequence[Mapping[fx.Node, Any]], wanted: Tensor, read: fx.Node
) -> None:
    node, number = place
    found: list[Tensor] = []

    def see(product: int, x: Tensor, y: Tensor) -> None:
        if product == number:
            found.append(y.reshape(-1, y.shape[-1]))

    bias = ctx.stored(read).detach()
    for held in values:
        products_of(node, held, see)
    error = wanted - torch.cat(found).double().mean(0)
    if bool(error.isfinite().all()):
        bias.copy_((bias.double() + error).float())
