"""factorize-linears: a wide linear becomes two narrow ones, where they multiply less.

    linear(x, W [N, K], b)  -> linear(linear(x, right [r, K]), left [N, r], b)        W ~ left right, r (N + K) < N K

Requires: functional; run it before operators of the dialect are formed. Exactness: APPROX.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx

from recfx.errors import InputError
from recfx.ir.numeric import Exactness
from recfx.ir.program import Program
from recfx.passes._kept import KEPT, require_known
from recfx.passes._match import argument
from recfx.passes._properties import CANONICAL, QUANTISED
from recfx.passes.mlp.low_rank import Spectrum, spectrum
from recfx.passes.prune.calibration import along, batches, run_with
from recfx.pipeline import Pass, PassContext, PassSpec, register

_aten = torch.ops.aten
_RULE = "factorize"


@register
@dataclass(frozen=True)
class FactorizeLinears(Pass):
    """Replaces wide linears by two narrow ones.

    Attributes:
        ratio: The part of the multiply-adds of each linear to remove, above 0 and below 1.
        energy: Take the least rank that keeps this share of the squared singular values instead, above 0 and at most 1.
        importance: "weights" keeps the weight as well as its rank allows; "activation" keeps the products with the inputs of calibration
            data.
        round_to: Ranks are multiples of it.
        min_weights: Linears of fewer weights stay whole.
        keep: Names of weights that stay whole.
        only: Names of the weights that may become two; without a name all of them.

    Raises:
        InputError: An option has another value, or, in `run`, `keep` or `only` names no weight.
    """

    spec = PassSpec(
        "factorize-linears",
        "Replaces wide linears by two narrow ones.",
        exactness=Exactness.APPROX,
        changes_state=True,
        prefers=CANONICAL,
        avoids=frozenset({"linears-fused", "linears-joined"}),
        forbids=QUANTISED,
        idempotent=False,
    )

    ratio: float = 0.5
    energy: float | None = None
    importance: Literal["weights", "activation"] = "weights"
    round_to: int = 16
    min_weights: int = 4096
    keep: tuple[str, ...] = ()
    only: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise InputError(
                f"factorize-linears cannot remove ratio={self.ratio} of the multiply-adds",
                hint="give a part above 0 and below 1; without factors, leave out the pass",
            )
        if self.energy is not None and not 0 < self.energy <= 1:
            raise InputError(
                f"factors cannot keep energy={self.energy} of the squared singular values",
                hint="give a share above 0 and at most 1",
            )
        if self.round_to < 1 or self.min_weights < 0:
            raise InputError(
                f"round_to must be at least 1 and min_weights at least 0, got {self.round_to} and {self.min_weights}",
                hint="give numbers in these ranges",
            )
        if self.importance == "activation":
            object.__setattr__(self, "spec", dataclasses.replace(type(self).spec, needs=frozenset({"calibration"})))

    def run(self, program: Program, ctx: PassContext) -> None:
        readers = self._readers(ctx)
        moments = (
            _moments(ctx, [node for nodes in readers.values() for node in nodes]) if self._measured(readers) else {}
        )
        for nodes in readers.values():
            weight = ctx.stored(nodes[0].args[1])
            known = None if self.importance == "weights" else sum(moments[node] for node in nodes)
            found = spectrum(weight, known if isinstance(known, Tensor) else None)
            rank = self._rank(found, weight)
            if rank * sum(weight.shape) >= weight.numel():
                ctx.miss(_RULE, nodes[0], f"factors of rank {rank} multiply no less than {list(weight.shape)}")
            elif ctx.gate(_RULE, nodes[0]):
                _factorize(ctx, nodes, found.factors(rank))
        ctx.sweep()

    def _measured(self, readers: dict[int, list[fx.Node]]) -> bool:
        return self.importance == "activation" and bool(readers)

    def _rank(self, found: Spectrum, weight: Tensor) -> int:
        most = len(found.values)
        if self.energy is not None:
            wanted = found.rank_of(self.energy)
        else:
            wanted = max(int((1 - self.ratio) * weight.numel() / sum(weight.shape)) // self.round_to * self.round_to, 1)
        return min(-(-wanted // self.round_to) * self.round_to, most)

    def _readers(self, ctx: PassContext) -> dict[int, list[fx.Node]]:
        """The linears of each weight that may become two, by the weight."""
        linears = ctx.nodes(_aten.linear.default)
        known = [
            str(n.args[1].target) for n in linears if isinstance(n.args[1], fx.Node) and n.args[1].op == "get_attr"
        ]
        require_known((*self.keep, *self.only), known, self.spec.name)
        found: dict[int, list[fx.Node]] = {}
        for node in linears:
            reason = self._refusal(ctx, node)
            if reason is None:
                found.setdefault(id(ctx.tensor(node.args[1])), []).append(node)
            else:
                ctx.miss(_RULE, node, reason)
        return found

    def _refusal(self, ctx: PassContext, node: fx.Node) -> str | None:
        read: Any = node.args[1]
        weight = ctx.tensor(read)
        if weight is None:
            return "its weight is computed"
        if weight.ndim != 2 or weight.dtype not in (torch.float32, torch.float64):
            return f"its weight is not a matrix of float32 or float64: {weight.dtype} {list(weight.shape)}"
        if weight.numel() < self.min_weights:
            return f"only {weight.numel()} weights"
        if str(read.target) in self.keep:
            return KEPT
        if self.only and str(read.target) not in self.only:
            return "only does not name it"
        users = [user for other in ctx.reads_of(weight) for user in other.users]
        if any(user.target is not _aten.linear.default or user.args[1] not in ctx.reads_of(weight) for user in users):
            return "another operator reads its weight, which would stay"
        if not bool(weight.detach().isfinite().all()):
            raise InputError(
                "a weight has NaN or infinities, so that it has no singular values",
                where=str(read.target),
                hint="repair the checkpoint, or leave out factorize-linears",
            )
        return None


def _moments(ctx: PassContext, linears: list[fx.Node]) -> dict[fx.Node, Tensor]:
    """The second moments of the inputs of linears, summed over the rows of the calibration data, float64 [K, K]."""
    wanted = set(linears)
    found: dict[fx.Node, Tensor] = {}

    def record(node: fx.Node, values: dict[fx.Node, Any]) -> dict[fx.Node, Any]:
        if node in wanted:
            given: Any = node.args[0]
            held = along(values[given], -1).double()
            found[node] = found.get(node, 0.0) + held.T @ held
        return {}

    with torch.no_grad():
        for leaves in batches(ctx.program, ctx.resources.get("calibration")):
            run_with(ctx.program, leaves, record)
    return found


def _factorize(ctx: PassContext, nodes: list[fx.Node], factors: tuple[Tensor, Tensor]) -> None:
    """Replaces all linears of one weight."""
    weight = ctx.stored(nodes[0].args[1])
    left, right = (factor.to(weight.dtype).contiguous() for factor in factors)
    names: list[str] = []
    for node in nodes:
        read: Any = node.args[1]
        with ctx.before(node):
            if names:
                reads = [ctx.read(name) for name in names]
            else:
                reads = [ctx.constant(f"{read.target}_{side}", f) for side, f in (("left", left), ("right", right))]
                names = [str(made.target) for made in reads]
            inner = ctx.call(_aten.linear.default, node.args[0], reads[1])
            bias = argument(node, 2, "bias")
            new = ctx.call(_aten.linear.default, inner, reads[0], *([] if bias is None else [bias]))
        ctx.replace(node, new)
