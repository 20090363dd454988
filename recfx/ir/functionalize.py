"""Functionalisation: in-place operators become out-of-place ones, writes through views reach the tensor behind the view.

Composite operators stay whole (linear, batch_norm, embedding_bag, ...), unlike `run_decompositions`. Which values share memory is read
from the storages of the fake values that export left on the nodes, so operators that alias only sometimes (reshape,
contiguous, to, eval-mode dropout) are told apart exactly.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from recfx.errors import CaptureError
from recfx.ir.functional_ops import functional_call, is_inplace, written_argument
from recfx.ir.program import where
from recfx.ir.views import write_through


def functionalize(module: fx.GraphModule) -> int:
    """Rewrites every in-place operator of the graph, in place; returns how many there were.

    Raises:
        CaptureError: The model writes to an input, a parameter or a buffer, or through a view that has no functional form.
    """
    inplace = [n for n in module.graph.nodes if is_inplace(n)]
    if inplace:
        _Functionalizer(module.graph, inplace).run()
        module.graph.lint()
        module.recompile()
    return len(inplace)


class _Functionalizer:
    """Walks the graph once, keeping for every written storage the node that holds its present content."""

    def __init__(self, graph: fx.Graph, inplace: list[fx.Node]) -> None:
        self.graph = graph
        self.inplace = set(inplace)
        self.written = {_storage(written_argument(n)) for n in inplace} - {None}
        self.parents: dict[fx.Node, fx.Node] = {}  # alias -> the value it is a view of
        self.current: dict[fx.Node, fx.Node] = {}  # value -> the node holding its present content
        self.dirty: set[int] = set()  # storages written to so far

    def run(self) -> None:
        for node in list(self.graph.nodes):
            self._note_alias(node)
            if node in self.inplace:
                self._rewrite(node)
            elif node.op in ("call_function", "output"):
                self._read_current(node)
        for node in sorted(self.inplace, reverse=True):
            self.graph.erase_node(node)

    def _note_alias(self, node: fx.Node) -> None:
        storage = _storage(node)
        if storage is None or storage not in self.written or node.op != "call_function":
            return
        candidates = node.all_input_nodes
        if node.target is operator.getitem:
            candidates = node.args[0].all_input_nodes  # type: ignore[union-attr]
        for source in candidates:
            if _storage(source) == storage:
                self.parents[node] = source
                return

    def _rewrite(self, node: fx.Node) -> None:
        target = written_argument(node)
        if node.target is torch.ops.aten.detach_.default:
            return
        root = target
        while root in self.parents:
            root = self.parents[root]
        _refuse_outside_state(node, root)
        self._read_current(node)
        with self.graph.inserting_before(node):
            new = functional_call(self.graph, node, like=target)
            self._store(target, new, node)

    def _store(self, target: fx.Node, new: fx.Node, node: fx.Node) -> None:
        """Makes `new` the content of `target`, and of everything `target` is a view of."""
        fresh = {target: new}
        value, alias = new, target
        while alias in self.parents:
            parent = self.parents[alias]
            if alias in self.inplace:  # the result of an in-place operator is its target
                fresh[parent] = value
            else:
                value = write_through(self.graph, alias, self._present(parent), value, node)
                fresh[parent] = value
            alias = parent
        storage = _storage(target)
        assert storage is not None
        self.dirty.add(storage)
        for known in [n for n in self.current if _storage(n) == storage]:
            del self.current[known]
        self.current.update(fresh)

    def _present(self, node: fx.Node) -> fx.Node:
        """The node that holds what `node` holds now, made by replaying the view on its parent when needed."""
        storage = _storage(node)
        if storage is None or storage not in self.dirty:
            return node
        if node in self.current:
            return self.current[node]
        if node not in self.parents:
            return node
        parent = self.parents[node]
        result = self._present(parent) if node in self.inplace else self._replay(node, parent)
        self.current[node] = result
        return result

    def _replay(self, node: fx.Node, parent: fx.Node) -> fx.Node:
        replacement = self._present(parent)
        if node.target is operator.getitem:
            source: Any = node.args[0]
            many = self.graph.node_copy(source, lambda n: replacement if n is parent else n)
            many.meta = dict(source.meta)
            again = self.graph.call_function(operator.getitem, (many, node.args[1]))
        else:
            again = self.graph.node_copy(node, lambda n: replacement if n is parent else n)
        again.meta = dict(node.meta)
        return again

    def _read_current(self, node: fx.Node) -> None:
        with self.graph.inserting_before(node):
            node.args = fx.map_arg(node.args, self._present)
            node.kwargs = fx.map_arg(node.kwargs, self._present)


def _storage(node: fx.Node) -> int | None:
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor) or value.layout is not torch.strided:
        return None
    return int(value.untyped_storage()._cdata)


def _refuse_outside_state(node: fx.Node, root: fx.Node) -> None:
    if root.op == "placeholder":
        what, hint = f"the model writes to its input {root.name!r}", "clone the input first: `x = x.clone()`"
    elif root.op == "get_attr":
        what = f"the model writes to its parameter or buffer {root.target!r} in eval mode"
        hint = (
            "compute a new tensor instead; an optimized model is a pure function (nn.Embedding's max_norm also writes)"
        )
    else:
        return
    raise CaptureError(what, where=where(node), hint=hint)
