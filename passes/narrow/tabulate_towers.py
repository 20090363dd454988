"""tabulate-towers: a tower over an item's id becomes a table with one row for each item of the catalogue.

    tower(item)  ->  embedding(tower(all items), item)

A tower is a set of row-wise operators that depend on the ids alone: lookups by the id, lookups by features of the item, and networks over
them, up to the first operator that reads another input, such as a feature of the request.

Requires: functional. Needs: the catalogue. Exactness: REASSOC (the tower runs on all items at once instead of on a batch).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from recfx.analysis.axis_maps import expression
from recfx.errors import PassError
from recfx.ir.access import tensor_of
from recfx.ir.catalogue import Catalogue
from recfx.ir.numeric import Exactness
from recfx.ir.program import Program
from recfx.passes._match import is_random, value
from recfx.passes._properties import BATCHED, QUANTISED
from recfx.passes.narrow.narrowing import sink
from recfx.passes.narrow.selection import Cut, Narrow, Step
from recfx.pipeline import Pass, PassContext, PassSpec, register

_aten = torch.ops.aten


@register
class TabulateTowers(Pass):
    """Precomputes towers over an item's id for the whole catalogue."""

    spec = PassSpec(
        "tabulate-towers",
        "Precomputes towers over an item's id for the whole catalogue.",
        exactness=Exactness.REASSOC,
        needs=frozenset({"catalogue"}),
        changes_state=True,
        avoids=BATCHED,
        forbids=QUANTISED,
        invalidates=frozenset({"lookups-fused"}),
    )

    def run(self, program: Program, ctx: PassContext) -> None:
        catalogue = ctx.resources.get("catalogue")
        if catalogue is None:
            return  # the model has no catalogue
        if not isinstance(catalogue, Catalogue):
            raise PassError(
                f"expected a Catalogue as the resource 'catalogue', got {type(catalogue).__name__}",
                hint="pass constant_inputs= and catalogue=True to optimize",
            )
        leaves = zip(program.signature.leaves, program.placeholders(), strict=True)
        keys = [node for leaf, node in leaves if leaf.name == catalogue.key]
        held = value(keys[0]) if keys else None
        if held is None or held.ndim != 1 or isinstance(held.shape[0], int):
            raise PassError(
                f"the input {catalogue.key!r} of the catalogue does not hold one id for each row",
                hint="declare the parameter that holds one item id for each row of the batch",
            )
        towers = _Towers(ctx, keys[0], catalogue)
        tops = towers.tops()
        if not tops:
            ctx.miss("tabulate", keys[0], "only plain lookups depend on these ids alone")
        place: fx.Node | None = None
        for top in tops:
            if not ctx.gate("tabulate", top):
                continue
            if place is None:
                with ctx.before(keys[0].next):
                    place = _place(ctx, keys[0], catalogue)
            with torch.no_grad():
                rows = towers.compute(top)
            with ctx.before(top):
                table = ctx.constant(f"tables.{top.name}", rows.detach().clone())
                read = _aten.embedding.default if rows.ndim == 2 else _aten.index_select.default
                args = (table, place) if rows.ndim == 2 else (table, 0, place)
                ctx.replace(top, ctx.call(read, *args))


def _place(ctx: PassContext, key: fx.Node, catalogue: Catalogue) -> fx.Node:
    """The position of each id in the catalogue; an unknown id gets a position that lookups refuse."""
    first = catalogue.first
    if first == 0:
        return key
    if first is not None:
        return ctx.call(_aten.sub.Tensor, key, first)
    return ctx.call(_aten.index_select.default, ctx.constant("tables.places", catalogue.places()), 0, key)


def _is_float(node: fx.Node) -> bool:
    held = value(node)
    return held is not None and held.is_floating_point()


class _Towers:
    """The row-wise operators that depend on one input and on state alone."""

    def __init__(self, ctx: PassContext, key: fx.Node, catalogue: Catalogue) -> None:
        self.ctx = ctx
        self.catalogue = catalogue
        held = tensor_of(key)
        self.batch = expression(held.shape[0])
        self.rows = {key}
        self.work: dict[fx.Node, int] = {key: 0}
        self._known: dict[fx.Node, Any] = {key: catalogue.ids}
        state: set[fx.Node] = set(ctx.graph.find_nodes(op="get_attr"))
        for node in ctx.nodes():
            step = None if is_random(node) or not self._fits(node) else sink(node, Cut(0))
            if step is not None and self._row_wise(step, state):
                self.rows.add(node)
                below = sum(self.work[n] for n in node.all_input_nodes if n in self.rows)
                self.work[node] = below + (_is_float(node) and not step.view)

    def _fits(self, node: fx.Node) -> bool:
        """Whether an operator gives one row for each row of the batch."""
        held = node.meta.get("val")
        parts = list(held) if isinstance(held, tuple | list) else [held]
        return all(isinstance(p, torch.Tensor) and p.ndim and expression(p.shape[0]) == self.batch for p in parts) or (
            isinstance(held, tuple | list)  # each result in a list is checked at its getitem
        )

    def _row_wise(self, step: Step, state: set[fx.Node]) -> bool:
        found = False

        def walk(argument: Any) -> bool:
            nonlocal found
            if isinstance(argument, Narrow):
                found = True
                return argument.place.dim == 0 and argument.node in self.rows
            if isinstance(argument, Step):
                return walk(argument.args)
            if isinstance(argument, fx.Node):
                return argument in state or isinstance(argument.meta.get("val"), torch.SymInt | int)
            if isinstance(argument, list | tuple):
                return all(walk(a) for a in argument)
            return True

        return walk([*step.args, *step.kwargs.values()]) and found

    def tops(self) -> list[fx.Node]:
        """The last operators of the towers that do more than a plain lookup."""
        found = []
        for node in self.rows:
            leaves = any(user not in self.rows for user in node.users)
            if leaves and isinstance(node.meta.get("val"), torch.Tensor) and self.work[node] > 1:
                found.append(node)
        return found

    def compute(self, top: fx.Node) -> torch.Tensor:
        """The tower's rows for the whole catalogue."""
        pending = [top]
        while pending:
            node = pending[-1]
            if node in self._known:
                pending.pop()
                continue
            missing = [n for n in node.all_input_nodes if n not in self._known and not self._settle(n)]
            if missing:
                pending.extend(missing)
                continue
            pending.pop()
            args, kwargs = fx.map_arg((node.args, node.kwargs), self._known.__getitem__)
            assert callable(node.target)
            self._known[node] = node.target(*args, **kwargs)
        result: torch.Tensor = self._known[top]
        return result

    def _settle(self, node: fx.Node) -> bool:
        """Records the value of a read of state, or of a size with the catalogue as the batch; returns whether the value is known."""
        size = node.meta.get("val")
        if node.op == "get_attr":
            self._known[node] = self.ctx.tensor(node)
        elif isinstance(size, torch.SymInt | int):
            self._known[node] = int(expression(size).subs(self.batch, len(self.catalogue.ids)))
        return node in self._known
