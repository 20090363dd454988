"""First part of hoist-requests: operators that depend on the request alone run once per request.

op(repeat(x), repeat(y)) -> repeat(op(x, y))    when op works row by row
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from recfx.analysis.batch_axis import Rows, depends_on, multiple, offsets_of_fixed_bags
from recfx.analysis.origins import data_inputs
from recfx.ir.access import argument_of, tensor_of
from recfx.ir.op_sets import EMBEDDING_BAGS, EXPANSIONS
from recfx.ir.program import Origin
from recfx.ir.propagate import refresh
from recfx.passes._match import value
from recfx.passes.hoist.request_forms import Shared
from recfx.pipeline import PassContext

_aten = torch.ops.aten


def run_once(ctx: PassContext) -> None:
    """Moves every repetition of request rows behind all row-wise operators."""
    _Hoist(ctx).run()


class _Hoist:
    def __init__(self, ctx: PassContext) -> None:
        self.ctx = ctx
        self.shared = Shared(ctx)
        self.found = self.shared.found
        self.narrow: dict[fx.Node, fx.Node] = {}

    def run(self) -> None:
        order = list(self.ctx.graph.nodes)
        for node in order:
            if node.op == "call_function":
                self._visit(node)
        for node in order:
            if node.op == "call_function":
                self._free_of_shapes(node)
        for node in order:
            if node in self.narrow and not self.found.is_root(node):
                self._widen_for_others(node)
        self.ctx.sweep()
        refresh(self.ctx.program.module)

    def _visit(self, node: fx.Node) -> None:
        known = self.found[node]
        if known.blocked:
            self.ctx.miss("run-once", node, known.blocked)
        if not known.repeated:
            return
        if self.found.is_root(node):
            self.narrow[node] = argument_of(node, 0, fx.Node)
            return
        inputs = [n for n in data_inputs(node, self.found.batch) if self.found[n].rows is not None]
        if any(n not in self.narrow for n in inputs) or self._is_last_step(node, inputs):
            return
        with self.ctx.before(node):
            made = self._build(node)
        if not self._has_one_row(node, made):
            self.ctx.miss("run-once", node, "one row of the request gives a result of another shape")
        elif not inputs or known.origin is Origin.CONSTANT or self.ctx.gate("run-once", node):
            self.narrow[node] = made

    def _has_one_row(self, node: fx.Node, made: fx.Node) -> bool:
        """Whether the result for one row has the shape of a row of the node's result; a squeeze of the batch, for example, changes it."""
        wide, once, rows = value(node), value(made), self.found[node].rows
        if wide is None or once is None or rows is None:
            return wide is None and once is None  # several tensors: each is checked at its getitem
        want = [str(s) for i, s in enumerate(wide.shape) if i != rows.axis]
        return once.ndim == wide.ndim and want == [str(s) for i, s in enumerate(once.shape) if i != rows.axis]

    def _is_last_step(self, node: fx.Node, inputs: list[fx.Node]) -> bool:
        """Whether a node only reshapes or copies the repetition for its users, as this pass itself inserts it."""
        if not all(self.found.is_root(n) for n in inputs) or any(self.found[u].repeated for u in node.users):
            return False
        rows = self.found[node].rows
        flattens = node.target is _aten.reshape.default and rows is not None and rows.inner > 1
        return flattens or (node.target is _aten.clone.default and all(u.op == "output" for u in node.users))

    def _build(self, node: fx.Node) -> fx.Node:
        """The same operator on one row per request."""
        if node.target is _aten.expand_as.default:
            held = tensor_of(node)
            sizes = [self._once_of(s) for s in held.shape]
            return self.ctx.call(_aten.expand.default, self._once(node.args[0]), sizes)
        args, kwargs = fx.map_arg((node.args, node.kwargs), self._once)
        if node.target in EMBEDDING_BAGS:
            offsets: Any = node.args[2]
            if self.found.batch is not None and offsets_of_fixed_bags(offsets, node.args[1], self.found.batch):
                made = self.ctx.call(offsets.target, *fx.map_arg(offsets.args, self._once), **offsets.kwargs)
                args = (*args[:2], made, *args[3:])
        return self.ctx.call(node.target, *args, **kwargs)

    def _once(self, node: Any) -> Any:
        if node in self.narrow:
            return self.narrow[node]
        return self.shared.once_size(node) if isinstance(node.meta.get("val"), torch.SymInt) else node

    def _once_of(self, size: Any) -> Any:
        if not depends_on(size, self.shared.batch):
            return size if isinstance(size, int) else -1
        return self.shared.scaled_size(size)

    def _free_of_shapes(self, node: fx.Node) -> None:
        """Makes a node that reads only the shape of a repeated value read the number of candidates instead."""
        batch = self.shared.batch
        held = node.meta.get("val")
        if isinstance(held, torch.SymInt) and any(n in self.narrow for n in node.all_input_nodes):
            times = multiple(held, batch) if depends_on(held, batch) else None
            rows = self.shared.rows()
            if times is not None and node is not rows:
                with self.ctx.before(node):
                    node.replace_all_uses_with(self.shared.scaled(rows, times))
        elif node.target is _aten.expand_as.default and node not in self.narrow and node.args[1] in self.narrow:
            wide = tensor_of(node)
            if all(isinstance(s, int) or str(s) == str(batch) for s in wide.shape):
                with self.ctx.before(node):
                    sizes = [s if isinstance(s, int) else self.shared.rows() for s in wide.shape]
                    made = self.ctx.call(_aten.expand.default, node.args[0], sizes)
                node.replace_all_uses_with(made)

    def _widen_for_others(self, node: fx.Node) -> None:
        known = self.found[node]
        others = [u for u in node.users if u not in self.narrow]
        if not others or not isinstance(node.meta.get("val"), torch.Tensor):
            return
        if known.origin is Origin.CONSTANT and node.target in EXPANSIONS:
            return
        assert isinstance(known.rows, Rows)
        with self.ctx.before(node):
            wide = self.shared.widen(self.narrow[node], known.rows)
            copy = self.ctx.call(_aten.clone.default, wide) if any(u.op == "output" for u in others) else wide
        for user in others:
            user.replace_input_with(node, copy if user.op == "output" else wide)
