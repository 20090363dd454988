"""quantize-linears: the weights of MLP chains, cross layers and interaction networks in fewer bits; products are computed in these formats.

    mlp(x, [float32 weights])       -> mlp(x, [int8 weights, a scale per output channel])    (each row of the input is quantised in a call)
    mlp(x, [float32 weights])       -> mlp(x, [bfloat16 weights])
    cin(x0, x, [float32 weights])   -> likewise
    cross(x0, x, [float32 weights]) -> likewise; the vectors of DCN's first form stay as they are

Requires: functional; linears must have been fused. Exactness: APPROX.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from recfx.errors import InputError
from recfx.formats import quantize_per_channel, round_to_half
from recfx.ir.numeric import Exactness
from recfx.ir.program import Program
from recfx.ops import cin, cross, mlp
from recfx.passes._kept import KEPT, require_known
from recfx.passes.mlp.chain import LINEARS
from recfx.pipeline import Pass, PassContext, PassSpec, register


@register
@dataclass(frozen=True)
class QuantizeLinears(Pass):
    """Stores the weights of MLP chains, cross layers and interaction networks in fewer bits.

    Attributes:
        bits: 16 (bfloat16) or 8 (int8 per output channel).
        min_weights: The fewest weights of a layer to quantise. The first-level cache holds smaller layers at any width.
        min_outputs: The fewest outputs of a layer to quantise. The last layer of a click model has one, whose error is the error of the
            answer.
        clip: Whether to clip the weights of each output channel at the limit of least squared error (int8).
        keep: Names of weights that stay as they are.

    Raises:
        InputError: `bits` is neither 16 nor 8, or, in `run`, `keep` has the name of no weight.
    """

    spec = PassSpec(
        "quantize-linears",
        "Stores the weights of MLP chains, cross layers and interaction networks in fewer bits.",
        exactness=Exactness.APPROX,
        changes_state=True,
        establishes=frozenset({"linears-quantised"}),
    )

    bits: int = 8
    min_weights: int = 4096
    min_outputs: int = 2
    clip: bool = False
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.bits not in (16, 8):
            raise InputError(f"linears cannot have bits={self.bits}", hint="use one of 16, 8")

    def run(self, program: Program, ctx: PassContext) -> None:
        require_known(self.keep, program.state(), self.spec.name)
        for node in ctx.nodes(*LINEARS):
            if any(ctx.tensor(a) is not None for a in node.args):
                ctx.miss("linear", node, "the linear is not part of an MLP chain; run fuse-mlp before")
        done: _Done = {}
        for node in ctx.nodes(*_KINDS):
            self._layers(ctx, node, _KINDS[node.target], done)
        ctx.sweep()

    def _layers(self, ctx: PassContext, node: fx.Node, kind: _Kind, done: _Done) -> None:
        arguments: Any = node.args
        params = list(arguments[kind.params])
        layers = kind.decode(*arguments[kind.params + 1 : kind.params + 1 + kind.lists])
        changed = False
        for position, layer in enumerate(layers):
            for name, scale_name in kind.weights(layer):
                weight = params[getattr(layer, name)]
                tensor = ctx.tensor(weight)
                reason = KEPT if str(weight.target) in self.keep else self._refusal(tensor)
                if tensor is None or reason is not None:
                    ctx.miss("linear", node, f"layer {position + 1}: {reason}")
                    continue
                if id(tensor) not in done:
                    made = self._quantized(ctx, node, weight, tensor, position)
                    if made is None:
                        continue
                    done[id(tensor)] = made
                codes, scale = done[id(tensor)]
                places = {name: _place(params, codes), scale_name: -1 if scale is None else _place(params, scale)}
                layers[position] = layer = dataclasses.replace(layer, **places)
                changed = True
        if changed:
            params, layers = _compact(params, layers, kind.names)
            behind = arguments[kind.params + 1 + len(kind.encode(layers)) :]
            node.args = (*arguments[: kind.params], params, *kind.encode(layers), *behind)

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


def _compact(params: list[fx.Node], layers: list[Any], names: Sequence[str]) -> tuple[list[fx.Node], list[Any]]:
    """The parameters that layers still read, and the layers with the new positions in the named fields."""
    used = sorted({getattr(layer, n) for layer in layers for n in names} - {-1})
    moved = {old: new for new, old in enumerate(used)} | {-1: -1}
    changes: list[dict[str, Any]] = [{n: moved[getattr(layer, n)] for n in names} for layer in layers]
    fresh = [dataclasses.replace(layer, **change) for layer, change in zip(layers, changes, strict=True)]
    return [params[i] for i in used], fresh


@dataclass(frozen=True)
class _Kind:
    """The layout of the arguments of an operator with layers.

    Attributes:
        params: The position of the list of parameters among the arguments; the encoded layers follow it.
        names: The fields of a layer that are positions of parameters.
        weights: Layer -> pairs of the fields of a matrix and of its scale.
        lists: The number of arguments that encode the layers.
        decode: These arguments -> layers.
        encode: Layers -> the arguments behind the parameters.
    """

    params: int
    lists: int
    names: tuple[str, ...]
    weights: Callable[[Any], tuple[tuple[str, str], ...]]
    decode: Callable[..., list[Any]]
    encode: Callable[[list[Any]], tuple[Any, ...]]


_MATRICES = {
    cross.VECTOR: (),
    cross.FULL: (("weight", "scale"),),
    cross.LOW_RANK: (("weight", "scale"), ("inner", "inner_scale")),
}

_LAYER = ("weight", "bias", "scale", "slope", "gate_scale", "gate_shift", "norm_weight", "norm_bias")

_KINDS = {
    mlp.mlp: _Kind(1, 2, _LAYER, lambda layer: (("weight", "scale"),), mlp.decode, mlp.encode),
    cin.cin: _Kind(2, 2, _LAYER, lambda layer: (("weight", "scale"),), mlp.decode, mlp.encode),
    cross.cross: _Kind(
        2,
        1,
        ("weight", "bias", "inner", "scale", "inner_scale"),
        lambda layer: _MATRICES[layer.kind],
        cross.decode,
        lambda layers: (cross.encode(layers),),
    ),
}
