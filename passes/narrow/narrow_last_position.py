"""narrow-last-position: an encoder of which one position is read computes only this position.

    layer_norm(h)[:, -1]                    -> layer_norm(h[:, -1:])
    attention(q(h), k(h), v(h), mask)[:, i] -> attention(q(h[:, i]), k(h), v(h), mask[i])

The read moves before all operators that treat positions alike and whose results have no other users. At an attention, it narrows the
queries and the row of the mask, and leaves keys and values whole. It works for `h[:, -1]`, for a gather of each row's last item, and for
`nn.TransformerEncoderLayer` and `nn.MultiheadAttention`, whose packed projection is unpacked when its queries shrink.

Requires: functional. Exactness: REASSOC (matrix products of fewer rows may sum in another order).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import fx

from recfx.ir.numeric import Exactness
from recfx.ir.program import Program
from recfx.passes._properties import CANONICAL, QUANTISED
from recfx.passes.narrow.narrowing import sink
from recfx.passes.narrow.packed_projection import PackedPart, match_packed_part, unpack_leftovers
from recfx.passes.narrow.picks import Picker, Read, match_read
from recfx.passes.narrow.selection import CausalRows, Cut, Narrow, Step
from recfx.pipeline import Pass, PassContext, PassSpec, register


@register
@dataclasses.dataclass(frozen=True)
class NarrowLastPosition(Pass):
    """Computes only the position of an encoder that is read."""

    spec = PassSpec(
        "narrow-last-position",
        "Computes only the position of an encoder that is read.",
        exactness=Exactness.REASSOC,
        changes_state=True,
        prefers=CANONICAL,
        avoids=frozenset({"linears-joined", "linears-fused"}),
        forbids=QUANTISED,
    )

    def run(self, program: Program, ctx: PassContext) -> None:
        done: set[fx.Node] = set()
        for node in reversed(ctx.nodes()):
            read = match_read(node) if node not in done else None
            if read is None:
                continue
            same = [r for user in read.source.users if (r := match_read(user)) and _alike(r, read)]
            order = {other: position for position, other in enumerate(ctx.graph.nodes)}
            same.sort(key=lambda r: order[r.node])
            done |= {r.node for r in same}
            self._narrow(ctx, same)
        ctx.sweep()
        unpack_leftovers(ctx)

    def _narrow(self, ctx: PassContext, reads: list[Read]) -> None:
        first = reads[0]
        plan = _Plan(ctx, reads)
        if plan.problem is not None or not plan.heavy:
            return ctx.miss("narrow", first.node, plan.problem or "the read would narrow no costly operator")
        if not ctx.gate("narrow", first.node):
            return None
        with ctx.before(first.node):
            narrowed = plan.build()
        for read in reads:
            with ctx.before(read.node):
                ctx.replace(read.node, _as_read(ctx, read, narrowed))
        return None


def _alike(a: Read, b: Read) -> bool:
    return a.source is b.source and a.place == b.place and a.pick == b.pick


def _as_read(ctx: PassContext, read: Read, narrowed: fx.Node) -> fx.Node:
    if read.keeps:
        return narrowed
    return ctx.call(torch.ops.aten.select.int, narrowed, read.place.dim, 0)


class _Plan:
    """The operators that a read moves before, found backwards from the read, and their narrowed forms.

    The read moves before an operator if it moves before all users of the operator as well, so that the full form is no longer needed. It
    moves before operators that cost almost nothing in any case.
    """

    def __init__(self, ctx: PassContext, reads: list[Read]) -> None:
        self.ctx = ctx
        self.pick = reads[0].pick
        self.picker = Picker(ctx, self.pick)
        self.source, self.place = reads[0].source, reads[0].place
        self.steps: dict[tuple[fx.Node, Cut], Step | PackedPart] = {}
        self.heavy = False
        self.problem: str | None = None
        self._dead = {read.node for read in reads}
        self._built: dict[tuple[fx.Node, Cut], fx.Node] = {}
        self._find()

    def _find(self) -> None:
        wanted: dict[fx.Node, set[Cut]] = {self.source: {self.place}}
        whole: set[fx.Node] = set()
        for node in reversed(self.ctx.graph.nodes):
            if node in self._dead and node not in wanted:
                continue
            places = wanted.get(node)
            if places is None:
                continue
            for place in places:
                step = self._step(
                    node, place, dies=len(places) == 1 and node not in whole and set(node.users) <= self._dead
                )
                if step is None:
                    if not self.picker.can(node, place):
                        self.problem = f"{node.name} cannot be gathered from: several of its sizes vary"
                    continue
                self.steps[node, place] = step
                marks, read_whole = _inputs(step)
                whole |= read_whole
                for mark in marks:
                    wanted.setdefault(mark.node, set()).add(mark.place)

    def _step(self, node: fx.Node, place: Cut, dies: bool) -> Step | PackedPart | None:
        part = match_packed_part(self.ctx, node, place)
        if part is not None:
            self.heavy = True
            self._dead |= {node} if dies else set()
            return part
        step = sink(node, place, last=self.pick.last)
        if step is None or not (dies or step.view):
            return None
        if dies:
            self._dead |= {node, *step.absorbed}
            self.heavy |= step.heavy
        return step

    def build(self) -> fx.Node:
        """Inserts the narrowed operators and returns the narrowed source."""
        return self._narrowed(self.source, self.place)

    def _narrowed(self, node: fx.Node, place: Cut) -> fx.Node:
        if (node, place) not in self._built:
            step = self.steps.get((node, place))
            if step is None:
                made = self.picker.apply(node, place)
            elif isinstance(step, PackedPart):
                made = step.insert(self.ctx, self._narrowed(step.source.node, step.source.place))
            else:
                made = self._call(step)
            self._built[node, place] = made
        return self._built[node, place]

    def _call(self, step: Step) -> fx.Node:
        args = [self._resolve(a) for a in step.args]
        return self.ctx.call(step.target, *args, **{k: self._resolve(v) for k, v in step.kwargs.items()})

    def _resolve(self, argument: Any) -> Any:
        if isinstance(argument, Narrow):
            return self._narrowed(argument.node, argument.place)
        if isinstance(argument, Step):
            return self._call(argument)
        if isinstance(argument, CausalRows):
            return self.picker.apply(self._causal(argument.length), self._causal_place(argument))
        if isinstance(argument, list | tuple):
            return type(argument)(self._resolve(a) for a in argument)
        return argument

    def _causal(self, length: int) -> fx.Node:
        return self.ctx.constant("causal", torch.ones(length, length, dtype=torch.bool).tril())

    def _causal_place(self, rows: CausalRows) -> Cut:
        return rows.place if self.pick.index is None else Cut(0)


def _inputs(step: Step | PackedPart) -> tuple[list[Narrow], set[fx.Node]]:
    """The inputs of a narrowed operator: those to narrow in turn, and those that it reads whole."""
    marks: list[Narrow] = []
    whole: set[fx.Node] = set()

    def walk(argument: Any) -> None:
        if isinstance(argument, Narrow):
            marks.append(argument)
        elif isinstance(argument, Step):
            walk(argument.args)
        elif isinstance(argument, fx.Node):
            whole.add(argument)
        elif isinstance(argument, list | tuple):
            for a in argument:
                walk(a)

    walk([step.source] if isinstance(step, PackedPart) else [*step.args, *step.kwargs.values()])
    return marks, whole
