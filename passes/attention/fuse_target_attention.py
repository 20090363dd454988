"""fuse-target-attention: DIN's attention of a candidate over past items becomes one operator.

    scores = MLP(cat([q, k, q - k, q * k]))      parts in any order and number
    scores masked (filled or zeroed), scaled, softmaxed or not
    sum_l scores_l k_l                           ->  recfx.target_attention(q, k, mask, ...)

Without the sum, the operator gives the weights.

Requires: functional. Exactness: REASSOC (sums in another order; Dice's batch norm becomes one multiply-add).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from recfx.ir.access import tensor_of
from recfx.ir.numeric import Exactness
from recfx.ir.program import Program
from recfx.ops import attention
from recfx.passes._properties import CANONICAL
from recfx.passes.attention.mlp_inputs import Inputs, match_inputs
from recfx.passes.attention.scores import Scores, follow_scores
from recfx.passes.mlp.chain import LINEARS, Chain, emit_layers, match_chain
from recfx.pipeline import Miss, Pass, PassContext, PassSpec, register

_aten = torch.ops.aten


@register
class FuseTargetAttention(Pass):
    """Recognises DIN's activation unit with its masking and its weighted sum."""

    spec = PassSpec(
        "fuse-target-attention",
        "Fuses DIN's attention over past items, MLP included, into one operator.",
        exactness=Exactness.REASSOC,
        changes_state=True,
        prefers=CANONICAL,
        avoids=frozenset({"linears-joined", "linears-fused"}),
        forbids=frozenset({"linears-quantised"}),
    )

    def run(self, program: Program, ctx: PassContext) -> None:
        for node in ctx.nodes(*LINEARS):
            source: Any = node.args[0]
            inputs = match_inputs(source)
            if isinstance(inputs, Miss):
                ctx.miss("target-attention", inputs.node or node, inputs.reason)
            elif inputs is not None:
                self._unit(ctx, node, inputs)
        ctx.sweep()

    def _unit(self, ctx: PassContext, head: fx.Node, inputs: Inputs) -> None:
        chain = match_chain(ctx, head, last_width=1)
        if isinstance(chain, Miss):
            return ctx.miss("target-attention", chain.node or head, chain.reason)
        scores = follow_scores(ctx, chain.output, inputs.spread, inputs.keys)
        if scores is None:
            return ctx.miss("target-attention", chain.output, "the scores are not reshaped to one row per query")
        if not ctx.gate("target-attention", scores.output):
            return None
        with ctx.before(scores.output):
            new = self._emit(ctx, inputs, chain, scores)
        ctx.replace(scores.output, new)
        return None

    def _emit(self, ctx: PassContext, inputs: Inputs, chain: Chain, scores: Scores) -> fx.Node:
        params, layers, numbers = emit_layers(ctx, chain.steps)
        query = _without(ctx, inputs.query, 2)
        mask = scores.mask
        if mask is not None:
            mask = _without(ctx, mask, 2)
            mask = ctx.call(_aten.bitwise_not.default, mask) if scores.inverted else mask
        held = tensor_of(scores.output)
        new = ctx.call(
            attention.target_attention, query, inputs.keys, mask, params, layers, numbers, list(inputs.parts),
            scores.softmax, scores.scale, scores.masking, scores.fill, scores.pooled,
        )  # fmt: skip
        if held.ndim == 2:
            return new
        return ctx.call(_aten.unsqueeze.default, new, 1 if held.shape[1] == 1 else 2)


def _without(ctx: PassContext, node: fx.Node, ndim: int) -> fx.Node:
    """A tensor, without its dimension of size 1 if it has more than `ndim` dimensions."""
    held = tensor_of(node)
    if held.ndim == ndim:
        return node
    return ctx.call(_aten.squeeze.dim, node, 1 if held.shape[1] == 1 else 2)
