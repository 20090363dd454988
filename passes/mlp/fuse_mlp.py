"""fuse-mlp: a stack of linears with their norms, activations and residuals becomes one operator.

    linear -> [layer_norm] -> [activation] -> [+ residual] -> linear -> ...  ->  recfx.mlp(x, params, layers, numbers)

Activations: ReLU, GELU (both forms), SiLU (also written x * sigmoid(x)), sigmoid, tanh, leaky ReLU, PReLU, and Dice with a batch norm,
whose running statistics become a scale and a shift, with a norm over each row (torch-rechub), or without a norm (RecBole). A residual
adds the input of the chain or the output of an earlier layer. Products with a constant matrix (mm, matmul, addmm) count as linears. A
chain ends where one of its values has another user.

Requires: functional. Exactness: REASSOC (a backend may sum in another order; Dice's batch norm becomes one multiply-add).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from recfx.ir.numeric import Exactness
from recfx.ir.program import Program
from recfx.ops import mlp
from recfx.passes._properties import CANONICAL
from recfx.passes.mlp.chain import LINEARS, Chain, emit_layers, match_chain
from recfx.pipeline import Miss, Pass, PassContext, PassSpec, register


@register
@dataclass(frozen=True)
class FuseMlp(Pass):
    """Replaces chains of linears, norms, activations and residuals by one operator each.

    Attributes:
        at_least: The smallest number of linears in a chain to fuse.
    """

    spec = PassSpec(
        "fuse-mlp",
        "Fuses linears with their norms, activations and residuals into MLP chains.",
        exactness=Exactness.REASSOC,
        changes_state=True,
        prefers=CANONICAL,
        forbids=frozenset({"linears-quantised"}),
        establishes=frozenset({"linears-fused"}),
    )

    at_least: int = 1

    def run(self, program: Program, ctx: PassContext) -> None:
        done: set[fx.Node] = set()
        for node in ctx.nodes(*LINEARS):
            if node in done or not node.users:
                continue
            chain = match_chain(ctx, node)
            if isinstance(chain, Miss):
                ctx.miss("mlp", chain.node or node, chain.reason)
                continue
            done |= chain.nodes
            self._fuse(ctx, node, chain)
        ctx.sweep()

    def _fuse(self, ctx: PassContext, head: fx.Node, chain: Chain) -> None:
        if len(chain.steps) < self.at_least:
            return ctx.miss("mlp", head, f"only {len(chain.steps)} linear(s)")
        if chain.ended is not None and any(user.op != "output" for user in chain.output.users):
            ctx.miss("longer-mlp", chain.ended.node or chain.output, chain.ended.reason)
        if not ctx.gate("mlp", chain.output):
            return None
        with ctx.before(chain.output):
            params, layers, numbers = emit_layers(ctx, chain.steps)
            fused = ctx.call(mlp.mlp, chain.source, params, layers, numbers)
        ctx.replace(chain.output, fused)
        for node in sorted(chain.nodes - {chain.output}, reverse=True):
            ctx.graph.erase_node(node)  # at once, so that later chains do not count them as users
        return None
