"""Functionalisation: in-place operators become out-of-place operators, and writes through a view become writes to its base.

Composite operators stay whole (linear, batch_norm, embedding_bag, ...), unlike in `run_decompositions`. Two values share memory if the fake
values that export recorded share a storage. This is exact also for operators that alias only sometimes (reshape, contiguous, to, dropout
in eval mode).
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from recfx.capture.inplace_views import replace_inplace_views
from recfx.capture.renormalization import renormalization_hint
from recfx.capture.views import write_through
from recfx.errors import CaptureError
from recfx.ir.functional_ops import functional_call, is_inplace, written_argument
from recfx.ir.op_sets import DROPOUTS
from recfx.ir.provenance import where


def functionalize(module: fx.GraphModule) -> int:
    """Replaces every in-place operator of the graph, in place; returns their number.

    Raises:
        CaptureError: The model writes to an input, a parameter or a buffer, or through a view that has no functional form.
    """
    dropped = _drop_detach_inplace(module.graph) + replace_inplace_views(module.graph)
    inplace = [n for n in module.graph.nodes if is_inplace(n)]
    if inplace:
        _Functionalizer(module.graph, inplace).run()
        module.graph.lint()
    if dropped or inplace:
        module.recompile()
    return dropped + len(inplace)


def _drop_detach_inplace(graph: fx.Graph) -> int:
    """Erases every `detach_`, which writes no values; a trace of torch.tensor(...) in forward contains one. Returns their number."""
    nodes = list(graph.find_nodes(op="call_function", target=torch.ops.aten.detach_.default))
    for node in nodes:
        node.replace_all_uses_with(node.args[0])
        graph.erase_node(node)
    return len(nodes)


#: Operators whose result never shares memory with their input, even when the trace shows equal storages.
_COPIES = (torch.ops.aten.lift_fresh_copy.default, torch.ops.aten.clone.default)


class _Functionalizer:
    """Walks the graph once and tracks, for every written storage, the node that holds its current content."""

    def __init__(self, graph: fx.Graph, inplace: list[fx.Node]) -> None:
        self.graph = graph
        self.inplace = set(inplace)
        self.merged = _dropout_aliases(graph)
        self.written = {self._storage(written_argument(n)) for n in inplace} - {None}
        self.parents: dict[fx.Node, fx.Node] = {}  # alias -> its base
        self.inputs = {n: n.all_input_nodes for n in graph.nodes}  # before any rewrite
        # node -> value in the model's code -> value that the node reads now
        self.read: dict[fx.Node, dict[fx.Node, fx.Node]] = {}
        self.current: dict[fx.Node, fx.Node] = {}  # value -> the node with its current content
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

    def _storage(self, node: fx.Node) -> int | None:
        storage = _storage(node)
        return storage if storage is None else self.merged.get(storage, storage)

    def _note_alias(self, node: fx.Node) -> None:
        storage = self._storage(node)
        if storage is None or storage not in self.written or node.op != "call_function" or node.target in _COPIES:
            return
        candidates = [written_argument(node)] if node in self.inplace else self.inputs[node]
        if node.target is operator.getitem:
            candidates = self.inputs[candidates[0]]
        for source in candidates:
            if self._storage(source) == storage:
                self.parents[node] = source
                return

    def _rewrite(self, node: fx.Node) -> None:
        target = written_argument(node)
        root = target
        while root in self.parents:
            root = self.parents[root]
        _refuse_outside_state(node, root)
        self._read_current(node)
        with self.graph.inserting_before(node):
            new = functional_call(self.graph, node, like=target)
            self._store(target, new, node)

    def _store(self, target: fx.Node, new: fx.Node, node: fx.Node) -> None:
        """Makes `new` the content of `target`, and updates all bases of `target`."""
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
        storage = self._storage(target)
        assert storage is not None
        self.dirty.add(storage)
        for known in [n for n in self.current if self._storage(n) == storage]:
            del self.current[known]
        self.current.update(fresh)

    def _present(self, node: fx.Node) -> fx.Node:
        """The node with the current content of `node`; for a view, this may insert a copy of the view on its current base."""
        storage = self._storage(node)
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
            many = self._copy_reading(source, parent, replacement)
            again = self.graph.call_function(operator.getitem, (many, node.args[1]))
            again.meta = dict(node.meta)
            return again
        return self._copy_reading(node, parent, replacement)

    def _copy_reading(self, node: fx.Node, parent: fx.Node, replacement: fx.Node) -> fx.Node:
        """A copy of a view that reads `replacement` where the model read `parent`."""
        shown = self.read.get(node, {}).get(parent, parent)
        again = self.graph.node_copy(node, lambda n: replacement if n is shown else n)
        again.meta = dict(node.meta)
        _allow_any_layout(again)
        return again

    def _read_current(self, node: fx.Node) -> None:
        with self.graph.inserting_before(node):
            now = {n: self._present(n) for n in node.all_input_nodes}
        if any(old is not new for old, new in now.items()):
            self.read[node] = now
            node.args = fx.map_arg(node.args, now.__getitem__)
            node.kwargs = fx.map_arg(node.kwargs, now.__getitem__)
            _allow_any_layout(node)


def _allow_any_layout(node: fx.Node) -> None:
    """Turns `view` into `reshape`, since a rewritten value may have other strides, with which `view` fails."""
    if node.target is torch.ops.aten.view.default:
        node.target = torch.ops.aten.reshape.default


def _storage(node: fx.Node) -> int | None:
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor) or value.layout is not torch.strided:
        return None
    return int(value.untyped_storage()._cdata)


def _dropout_aliases(graph: fx.Graph) -> dict[int, int]:
    """Storage of the result of each dropout in eval mode -> storage of its input; dropout returns its input, but the trace has a copy."""
    merged: dict[int, int] = {}
    for node in graph.nodes:
        if node.target in DROPOUTS and len(node.args) == 3 and (not node.args[2] or node.args[1] == 0):
            source, result = _storage(node.args[0]), _storage(node)
            if source is not None and result is not None:
                merged[result] = merged.get(source, source)
    return merged


def _refuse_outside_state(node: fx.Node, root: fx.Node) -> None:
    if root.op == "placeholder":
        what, hint = f"the model writes to its input {root.name!r}", "clone the input first: `x = x.clone()`"
    elif root.op == "get_attr":
        what = f"the model writes to its parameter or buffer {root.target!r} in eval mode"
        hint = "compute a new tensor instead; an optimized model is a pure function"
        if node.target is torch.ops.aten.embedding_renorm_.default:
            what = f"max_norm writes to the table {root.target!r} at every call"
            hint = renormalization_hint(node, str(root.target))
    else:
        return
    raise CaptureError(what, where=where(node), hint=hint)
