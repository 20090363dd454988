"""batch-rounds: an operator that a loop runs in every round becomes one operator over all rounds.

    cat([linear(relu(linear(x_i * x_j, W)), V), ...], 1)  -> linear(relu(linear(gather(x, lefts) * gather(x, rights), W)), V)
    sum(a[:, k] * p_k for k in ...)                       -> (a * p).sum(1)
    stack([linear(cat([x_i, x_j], 1), [U V]), ...], 1)    -> gather(linear(x, U), lefts) + gather(linear(x, V), rights)

The rounds must run the same operators with the same weights: element by element, linears, norms, softmaxes and sums inside rows. The values
of k rounds are one tensor [B, k, ...]. The search starts from the join or the sum of the rounds' results and follows operands as long as
all rounds run the same operator. A value that is read elsewhere as well is selected from the tensor of all rounds.

Requires: functional. Exactness: REASSOC (sums may be taken in another order).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from recfx.ir.access import items_of, tensor_of
from recfx.ir.numeric import Exactness
from recfx.ir.op_sets import JOINS
from recfx.ir.program import Program
from recfx.passes._properties import BATCHED, CANONICAL
from recfx.passes._strides import relax_views
from recfx.passes.interaction.addition_trees import adds_whole, is_root, terms_of
from recfx.passes.interaction.gather_rows import in_order, shaped
from recfx.passes.interaction.pack_values import PackValues
from recfx.passes.interaction.round_forms import form_of
from recfx.passes.interaction.round_packs import Pack, Packer, joined_tensors, reads_own_products
from recfx.passes.interaction.row_parts import row_length, rows_joined
from recfx.pipeline import Miss, Pass, PassContext, PassSpec, register

_aten = torch.ops.aten

#: The results of rounds that run the same operators, or one other value.
Run = Pack | fx.Node


@register
@dataclass(frozen=True)
class BatchRounds(Pass):
    """Computes the rounds of a loop together.

    Attributes:
        at_least: The smallest number of rounds to compute together.
    """

    spec = PassSpec(
        "batch-rounds",
        "Computes operators that a loop runs in every round, with the same weights, as one operator over all rounds.",
        exactness=Exactness.REASSOC,
        changes_state=True,
        prefers=CANONICAL,
        avoids=BATCHED,
    )

    at_least: int = 6

    def run(self, program: Program, ctx: PassContext) -> None:
        earlier, fired = len(ctx.misses), True
        while fired:  # the gathers of one loop may join the results of another one
            del ctx.misses[earlier:]
            fired = False
            for node in ctx.nodes(*JOINS, _aten.add.Tensor):
                if not node._erased and node.users:
                    fired = (
                        self._sum(ctx, node) if node.target is _aten.add.Tensor else self._join(ctx, node)
                    ) or fired
            ctx.sweep()

    def _join(self, ctx: PassContext, node: fx.Node) -> bool:
        """Rewrites a cat or a stack of results of rounds."""
        parts = items_of(node, 0)
        if len(parts) < self.at_least or rows_joined(node) is None:
            return False
        packer = Packer(ctx, node)
        runs: list[Run] = []
        for group in _consecutive(ctx, parts):
            pack = packer.pack(group) if len(group) >= self.at_least else None
            runs += group if pack is None else [pack]
        results = [run for run in runs if isinstance(run, Pack)]
        anchor = self._place(ctx, packer, results, node)
        if anchor is None:
            return False
        values = self._compute(ctx, packer, results, anchor, node)
        with ctx.before(node):
            pieces = [values.value(run) if isinstance(run, Pack) else run for run in runs]
            if len(pieces) > 1:
                pieces = [shaped(ctx, piece, [row_length(piece)]) for piece in pieces]
                pieces = [ctx.call(_aten.cat.default, pieces, 1)]
            whole = in_order(ctx, pieces[0], node)
        relax_views([node])
        ctx.replace(node, whole)
        return True

    def _sum(self, ctx: PassContext, node: fx.Node) -> bool:
        """Rewrites the sum of results of rounds, written as a chain or tree of additions."""
        if not is_root(node):
            return False
        terms = terms_of(node)
        if len(terms) < self.at_least:
            return False
        groups, others = _alike(ctx, [term for term, _ in terms], node)
        packer = Packer(ctx, node, [user for _, user in terms])
        packs: list[Pack] = []
        for group in groups:
            pack = packer.pack(group) if len(group) >= self.at_least else None
            packs += [] if pack is None else [pack]
            others += group if pack is None else []
        anchor = self._place(ctx, packer, packs, node)
        if anchor is None:
            return False
        values = self._compute(ctx, packer, packs, anchor, node)
        with ctx.before(node):
            total: Any = None
            for pack in packs:
                found = ctx.call(_aten.sum.dim_IntList, values.value(pack), [1])
                total = found if total is None else ctx.call(_aten.add.Tensor, total, found)
            for other in others:
                total = ctx.call(_aten.add.Tensor, total, other)
        relax_views([node])
        ctx.replace(node, total)
        return True

    def _place(self, ctx: PassContext, packer: Packer, results: Sequence[Pack], node: fx.Node) -> fx.Node | None:
        """The operator in front of which packs are computed; None if the rewrite must not be made."""
        packs = packer.packs
        if not packs:
            return None
        anchor = packer.anchor()
        if not isinstance(anchor, Miss):
            saved = sum(len(pack.members) - 1 for pack in packs if pack.form.work)
            if any(map(reads_own_products, packs)):
                anchor = Miss("the rounds have linears with weights of their own", node)
            elif saved <= sum(map(joined_tensors, packs)) - sum(len(pack.members) for pack in results):
                anchor = Miss(
                    "joining what the rounds read copies as many tensors as there are operators to save", node
                )
            elif saved <= len(packer.readers()):
                anchor = Miss("most results of the rounds are read elsewhere as well", node)
        if isinstance(anchor, Miss):
            ctx.miss("rounds", anchor.node or node, anchor.reason)
            return None
        return anchor if ctx.gate("rounds", node) else None

    def _compute(
        self, ctx: PassContext, packer: Packer, results: Sequence[Pack], anchor: fx.Node, node: fx.Node
    ) -> PackValues:
        """Computes the results of all rounds, and gives other readers of members what they read."""
        values = PackValues(ctx)
        readers = packer.readers()
        relax_views(list(readers))
        with ctx.before(node), ctx.graph.inserting_before(anchor):
            for pack in results:
                values.value(pack)
            selected = [(member, self._selected(ctx, packer, values, member)) for member in readers]
        for member, new in selected:
            for reader in readers[member]:
                reader.replace_input_with(member, new)
            ctx.refresh_after(new)
        return values

    def _selected(self, ctx: PassContext, packer: Packer, values: PackValues, member: fx.Node) -> fx.Node:
        """The value of one member of a pack."""
        pack, number = packer.place(member)
        return ctx.call(_aten.select.int, values.value(pack), 1, number)


def _consecutive(ctx: PassContext, parts: Sequence[fx.Node]) -> list[list[fx.Node]]:
    """Parts in order, divided where the operator changes."""
    found: list[list[fx.Node]] = []
    last: Any = object()
    for part in parts:
        form = form_of(ctx, part)
        key = object() if form is None else (form.key, tensor_of(part).ndim)
        if not found or key != last:
            found.append([])
        found[-1].append(part)
        last = key
    return found


def _alike(ctx: PassContext, terms: Sequence[Any], total: fx.Node) -> tuple[list[list[fx.Node]], list[Any]]:
    """(the terms that are alike, each once, other terms)."""
    groups: dict[Any, dict[fx.Node, None]] = {}
    others: list[Any] = []
    for term in terms:
        form = form_of(ctx, term) if adds_whole(term, total) else None
        group = None if form is None else groups.setdefault(form.key, {})
        if group is None or term in group:
            others.append(term)
        else:
            group[term] = None
    return [list(group) for group in groups.values()], others
