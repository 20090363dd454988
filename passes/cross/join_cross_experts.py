"""join-cross-experts: the experts of a DCN-Mix layer are computed side by side.

    sum_e softmax(G x)_e * (x0 * (U_e f(C_e f(V_e x)) + b)) + x   ->   x0 * (U (p * f(C f(V x))) + b) + x

V stacks the experts' V_e, U lays their U_e side by side, C holds their C_e along its diagonal, and p repeats each expert's gate over its
own columns. A layer then has few products for any number of experts, and no tensor [B, D, E]. Biases that differ between experts become
columns of U that the gates multiply.

Experts may be written on rows [B, D] or columns [B, D, 1] (deepctr-torch, torch-rechub, RecBole), with linears or products, and summed by
stack and matmul, by stack and sum, or by additions. Wang et al. 2021 (DCN V2), section 4.3.

Requires: functional. Exactness: REASSOC (the experts are summed inside one product).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from recfx.ir.access import tensor_of
from recfx.ir.numeric import Exactness
from recfx.ir.program import Program
from recfx.passes._match import value
from recfx.passes._properties import CANONICAL, QUANTISED
from recfx.passes.cross.experts import Mixture, match_mixture
from recfx.passes.cross.mappings import Mapping, bias_of
from recfx.pipeline import Pass, PassContext, PassSpec, apply_rules, register

_aten = torch.ops.aten


@register
class JoinCrossExperts(Pass):
    """Joins the experts of a DCN-Mix layer into one chain of products."""

    spec = PassSpec(
        "join-cross-experts",
        "Computes the low-rank experts of DCN-Mix's cross layers side by side.",
        exactness=Exactness.REASSOC,
        changes_state=True,
        prefers=CANONICAL,
        avoids=frozenset({"linears-joined", "linears-fused"}),
        forbids=QUANTISED,
    )

    def run(self, program: Program, ctx: PassContext) -> None:
        apply_rules([("cross-experts", (_aten.add.Tensor,), _join)], ctx)


def _join(node: fx.Node, ctx: PassContext) -> Any:
    found = match_mixture(ctx, node)
    if not isinstance(found, Mixture):
        return found
    x, x0 = _rows(ctx, found.x), _rows(ctx, found.x0)
    hidden = x
    for number in range(len(found.experts[0]) - 1):
        hidden = _layer(ctx, hidden, [expert[number] for expert in found.experts], first=number == 0)
    gates = _linear(ctx, "gates", x, found.gates.weight, found.gates.bias)
    gates = ctx.call(_aten.softmax.int, gates, -1)
    width = tensor_of(hidden).shape[1]
    apart = ctx.call(_aten.reshape.default, hidden, [-1, len(found.experts), width // len(found.experts)])
    weighted = ctx.call(_aten.mul.Tensor, apart, ctx.call(_aten.unsqueeze.default, gates, 2))
    weighted = ctx.call(_aten.reshape.default, weighted, [-1, width])
    mixed = _outer(ctx, weighted, gates, [expert[-1] for expert in found.experts])
    result = ctx.call(_aten.add.Tensor, ctx.call(_aten.mul.Tensor, x0, mixed), x)
    shape = value(node)
    return ctx.call(_aten.unsqueeze.default, result, 2) if shape is not None and shape.ndim == 3 else result


def _rows(ctx: PassContext, node: fx.Node) -> fx.Node:
    held = value(node)
    return ctx.call(_aten.squeeze.dim, node, 2) if held is not None and held.ndim == 3 else node


def _linear(ctx: PassContext, stem: str, x: fx.Node, weight: torch.Tensor, bias: torch.Tensor | None) -> fx.Node:
    parameters = [_parameter(ctx, f"experts.{stem}", weight)]
    if bias is not None:
        parameters.append(_parameter(ctx, f"experts.{stem}_bias", bias))
    return ctx.call(_aten.linear.default, x, *parameters)


def _parameter(ctx: PassContext, stem: str, tensor: torch.Tensor) -> fx.Node:
    """A read of a new parameter. Equal parameters, such as gates that layers share, are stored once."""
    for read in ctx.graph.find_nodes(op="get_attr"):
        held = ctx.tensor(read) if str(read.target).startswith(stem) else None
        if held is not None and held.dtype is tensor.dtype and torch.equal(held, tensor):
            return ctx.read(str(read.target))
    return ctx.constant(stem, tensor.contiguous())


def _layer(ctx: PassContext, x: fx.Node, layers: Sequence[Mapping], *, first: bool) -> fx.Node:
    """One layer of all experts, which read one input in the first layer and their own columns in the others."""
    weights = [layer.weight for layer in layers]
    bias = _biases(layers)
    joined = torch.cat(weights) if first else _diagonal(weights)
    out = _linear(ctx, "first" if first else "inner", x, joined, bias)
    act = layers[0].act
    return out if act is None else ctx.call(act[0], out, *act[1], **dict(act[2]))


def _diagonal(blocks: Sequence[torch.Tensor]) -> torch.Tensor:
    """A block-diagonal matrix of matrices of one shape."""
    rows, columns = blocks[0].shape
    whole = blocks[0].new_zeros(len(blocks) * rows, len(blocks) * columns)
    for i, block in enumerate(blocks):
        whole[i * rows : (i + 1) * rows, i * columns : (i + 1) * columns] = block
    return whole


def _biases(layers: Sequence[Mapping]) -> torch.Tensor | None:
    if all(layer.bias is None for layer in layers):
        return None
    return torch.cat([bias_of(layer) for layer in layers])


def _outer(ctx: PassContext, x: fx.Node, gates: fx.Node, layers: Sequence[Mapping]) -> fx.Node:
    """The gated sum of the experts' last layers. A bias that all share is added once, since the gates add up to one."""
    weight, biases = torch.cat([layer.weight for layer in layers], 1), [layer.bias for layer in layers]
    shared = biases[0]
    if all(_equal(b, shared) for b in biases):
        return _linear(ctx, "outer", x, weight, shared)
    columns = torch.stack([bias_of(layer) for layer in layers], 1)
    both = ctx.call(_aten.cat.default, [x, gates], 1)
    return _linear(ctx, "outer", both, torch.cat([weight, columns], 1), None)


def _equal(a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
    return a is b or (a is not None and b is not None and torch.equal(a, b))
