"""quantize-linears: the weights of MLP chains are stored in fewer bits, and their products computed in them.

    mlp(x, [float32 weights]) -> mlp(x, [int8 weights, a scale per output channel])     (each row of the input is quantised as it comes)
    mlp(x, [float32 weights]) -> mlp(x, [bfloat16 weights])

Requires: functional; linears must have been fused. Exactness: APPROX.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from recfx.errors import InputError
from recfx.formats import quantize_per_channel, round_to_half
from recfx.ir.numeric import Exactness
from recfx.ir.program import Program
from recfx.ops import mlp
from recfx.passes._chain import LINEARS
from recfx.pipeline import Pass, PassContext, PassSpec, register


@register
@dataclass(frozen=True)
class QuantizeLinears(Pass):
    """Stores the weights of MLP chains in fewer bits.

    Attributes:
        bits: 16 (bfloat16) or 8 (int8 per output channel).
        min_weights: Layers of fewer weights are left alone: they are read from the nearest cache whatever their width.
        min_outputs: Layers of fewer outputs are left alone: the last layer of a click model has one, and every bit of it is in the answer.
        clip: Clip the weights of each output channel where their squared error is least (int8).
    """

    spec = PassSpec(
        "quantize-linears",
        "Stores the weights of MLP chains in fewer bits.",
        exactness=Exactness.APPROX,
        changes_state=True,
    )

    bits: int = 8
    min_weights: int = 4096
    min_outputs: int = 2
    clip: bool = False

    def __post_init__(self) -> None:
        if self.bits not in (16, 8):
            raise InputError(f"bits={self.bits} is no width of a linear", hint="one of 16, 8")

    def run(self, program: Program, ctx: PassContext) -> None:
        for node in ctx.nodes(*LINEARS):
            if any(ctx.tensor(a) is not None for a in node.args):
                ctx.miss("linear", node, "the linear is in no chain; run fuse-mlp before")
        done: _Done = {}
        for node in ctx.nodes(mlp.mlp):
            self._chain(ctx, node, done)
        ctx.sweep()

    def _chain(self, ctx: PassContext, node: fx.Node, done: _Done) -> None:
        arguments: Any = node.args
        params = list(arguments[1])
        layers = mlp.decode(arguments[2], arguments[3])
        changed = False
        for position, layer in enumerate(layers):
            weight = params[layer.weight]
            tensor = ctx.tensor(weight)
            reason = self._refusal(tensor)
            if tensor is None or reason is not None:
                ctx.miss("linear", node, f"layer {position + 1}: {reason}")
                continue
            if id(tensor) not in done:
                made = self._quantized(ctx, node, weight, tensor, position)
                if made is None:
                    continue
                done[id(tensor)] = made
            codes, scale = done[id(tensor)]
            at = -1 if scale is None else _place(params, scale)
            layers[position] = dataclasses.replace(layer, weight=_place(params, codes), scale=at)
            changed = True
        if changed:
            node.args = (arguments[0], *_compact(params, layers))

    def _refusal(self, tensor: torch.Tensor | None) -> str | None:
        if tensor is None:
            return "the weight is computed"
        if tensor.dtype is not torch.float32:
            return f"the weight is {tensor.dtype} already"
        if tensor.numel() < self.min_weights:
            return f"only {tensor.numel()} weights"
        if tensor.shape[0] < self.min_outputs:
            return f"only {tensor.shape[0]} output(s)"
        return None

    def _quantized(
        self, ctx: PassContext, node: fx.Node, weight: fx.Node, tensor: torch.Tensor, position: int
    ) -> tuple[fx.Node, fx.Node | None] | None:
        try:
            if self.bits == 16:
                codes, scale = round_to_half(tensor, torch.bfloat16), None
            else:
                codes, scale = quantize_per_channel(tensor, clip=self.clip)
        except InputError as error:
            ctx.miss("linear", node, f"layer {position + 1}: {error.what}")
            return None
        if not ctx.gate("linear", node):
            return None
        stem = f"{str(weight.target).replace('.', '_')}_{self.bits}bit"
        with ctx.before(weight):
            held = ctx.constant(stem, codes)
            return held, None if scale is None else ctx.constant(f"{stem}_scale", scale)


#: id of a weight, which several names may share -> the reads of its codes and scales.
_Done = dict[int, tuple[fx.Node, fx.Node | None]]


def _place(params: list[fx.Node], node: fx.Node) -> int:
    """The position of a parameter, which is added when it is new."""
    if node not in params:
        params.append(node)
    return params.index(node)


def _compact(params: list[fx.Node], layers: list[mlp.Layer]) -> tuple[list[fx.Node], list[int], list[float]]:
    """Parameters without those nobody reads any more, and the layers that point to them."""
    names = ("weight", "bias", "scale", "slope", "gate_scale", "gate_shift", "norm_weight", "norm_bias")
    used = sorted({getattr(layer, n) for layer in layers for n in names} - {-1})
    moved = {old: new for new, old in enumerate(used)} | {-1: -1}
    changes: list[dict[str, Any]] = [{n: moved[getattr(layer, n)] for n in names} for layer in layers]
    fresh = [dataclasses.replace(layer, **change) for layer, change in zip(layers, changes, strict=True)]
    return ([params[i] for i in used], *mlp.encode(fresh))
