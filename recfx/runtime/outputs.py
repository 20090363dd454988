"""Copies of outputs, so that callers may write to the results of a compiled model.

Passes may replace an output by state, an input or another output with the same value. Before lowering, each such output becomes a copy, so
that a write to a result changes neither the model nor another tensor.
"""

from __future__ import annotations

import torch
from torch import fx

from recfx.ir.program import Program
from recfx.ir.propagate import propagate, refresh

_clone = torch.ops.aten.clone.default


def own_outputs(program: Program) -> Program:
    """The program with a copy in place of every output that shares memory with state, an input or another output."""
    output = next(iter(reversed(program.graph.nodes)))
    returned: list[fx.Node] = list(output.args[0])
    memory = sorted(_memory_of(returned))
    views = [node for node in memory if node.op == "call_function" and _may_alias(node.target)]
    values = {node: node.meta.get("val") for node in memory} | propagate(program.module, views, own_memory=True)
    storages = {node: _storage(value) for node, value in values.items()}
    foreign = {storages.get(node) for node in program.graph.nodes if node.op in ("placeholder", "get_attr")} - {None}
    seen: set[fx.Node] = set()
    places: list[int] = []
    for index, node in enumerate(returned):
        if not isinstance(node, fx.Node) or not isinstance(values.get(node), torch.Tensor):
            continue  # sizes have no memory
        if node in seen or storages.get(node) in foreign:
            places.append(index)
        seen.add(node)
    return _copied(program, places) if places else program


def _copied(program: Program, places: list[int]) -> Program:
    """The program with copies in place of the outputs at some places."""
    result = program.clone()
    output = next(iter(reversed(result.graph.nodes)))
    returned: list[fx.Node] = list(output.args[0])
    with result.graph.inserting_before(output):
        for index in places:
            node = returned[index]
            copy = result.graph.call_function(_clone, (node,))
            copy.meta = {k: v for k, v in node.meta.items() if k not in ("val", "tensor_meta")}
            refresh(result.module, [copy])
            returned[index] = copy
    output.args = (tuple(returned),)
    return result


def _memory_of(returned: list[fx.Node]) -> set[fx.Node]:
    """The nodes whose memory the outputs may share: the outputs, and all nodes of which an output may be a view."""
    found: set[fx.Node] = set()
    open_nodes = [node for node in returned if isinstance(node, fx.Node)]
    while open_nodes:
        node = open_nodes.pop()
        if node not in found:
            found.add(node)
            open_nodes += node.all_input_nodes if _may_alias(node.target) else []
    return found


def _may_alias(target: object) -> bool:
    """Whether a result of an operator may share memory with an argument.

    This holds if the schema says so, and for composite operators, which may return an argument. It also holds for operators of other
    libraries, whose schemas may be wrong.
    """
    if not isinstance(target, torch._ops.OpOverload) or target.namespace not in ("aten", "recfx"):
        return True
    composed = torch._C._dispatch_has_kernel_for_dispatch_key(target._name, "CompositeImplicitAutograd")
    return composed or any(result.alias_info is not None for result in target._schema.returns)


def _storage(value: object) -> int | None:
    if not isinstance(value, torch.Tensor) or value.layout is not torch.strided:
        return None
    return int(value.untyped_storage()._cdata)
