"""Rewrites operators of the recfx dialect into ATen, for backends that do not know them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Container, Mapping
from typing import Any

import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_unflatten

from recfx.ir.dead_code import remove_dead_code
from recfx.ir.fake_kernels import batch_free_kernels
from recfx.ir.program import Program, get_state, set_state, unused_name
from recfx.ir.propagate import refresh
from recfx.ops.library import DECOMPOSITIONS

_aten = torch.ops.aten

#: Metadata of an operator's value, which new nodes do not inherit. The rest is its provenance.
_OF_VALUE = ("val", "tensor_meta", "recfx_verified")

#: Operators that tracing puts behind every constant.
_OF_CONSTANTS = (_aten.lift_fresh_copy.default, _aten.detach_.default)


def decompose(program: Program, keep: Container[Any] = ()) -> Program:
    """A program without operators of the dialect.

    Args:
        program: The program, which stays as it is.
        keep: Operators that stay.

    Returns:
        The program with the decomposition of every other operator of the dialect in its place. The new operators have the module path and
        line of the one they replace. Constants of a decomposition become buffers. Of the properties, only "functional" is kept.
    """
    made = program.clone()
    made.properties &= {"functional"}
    decompose_module(made.module, keep)
    return made


def decompose_module(module: fx.GraphModule, keep: Container[Any] = ()) -> int:
    """`decompose` for the graph module of a program or region, in place; returns the number of operators that were replaced."""
    found = [node for node in module.graph.nodes if node.target in DECOMPOSITIONS and node.target not in keep]
    for node in found:
        replace_node(module, node, DECOMPOSITIONS[node.target])
    if found:
        remove_dead_code(module.graph)
        module.graph.lint()
        module.recompile()
    return len(found)


def replace_node(module: fx.GraphModule, node: fx.Node, function: Callable[..., Any]) -> None:
    """Replaces an operator by the operators of ATen that a function of the same arguments calls.

    Args:
        module: The graph module.
        node: The operator. If it returns a tuple, the function may return None for results that nobody reads.
        function: The function. It does not branch on values.
    """
    arguments, _ = tree_flatten((node.args, node.kwargs))
    traced = trace_call(node, function)
    origin = {key: value for key, value in node.meta.items() if key not in _OF_VALUE}
    inputs = iter(argument for argument in arguments if isinstance(argument, fx.Node))
    made: dict[fx.Node, fx.Node] = {}
    inserted: list[fx.Node] = []
    results: Any = None
    with module.graph.inserting_before(node):
        for old in traced.graph.nodes:
            if old.op == "placeholder":
                made[old] = next(inputs)
            elif old.op == "output":
                results = fx.map_arg(old.args[0], made.__getitem__)
            elif old.target in _OF_CONSTANTS:
                made[old] = made[old.args[0]]
            else:
                made[old] = _copied(module, traced, old, made, node)
                made[old].meta = dict(origin)
                inserted.append(made[old])
    refresh(module, inserted)
    _use(node, results)
    module.graph.erase_node(node)


def trace_call(node: fx.Node, function: Callable[..., Any], table: Mapping[Any, Any] | None = None) -> fx.GraphModule:
    """The operators of ATen that a function calls for the arguments of an operator; the nodes among these are the graph's inputs.

    Args:
        node: The operator.
        function: The function.
        table: Operator -> its decomposition. With it, torch's composite operators are decomposed as well; without, they stay whole.
    """
    arguments, layout = tree_flatten((node.args, node.kwargs))
    places = [i for i, argument in enumerate(arguments) if isinstance(argument, fx.Node)]

    def of_values(*values: Any) -> Any:
        given = list(arguments)
        for place, value in zip(places, values, strict=True):
            given[place] = value
        args, kwargs = tree_unflatten(given, layout)
        return function(*args, **kwargs)

    with batch_free_kernels():
        return make_fx(of_values, decomposition_table=table, tracing_mode="symbolic", pre_dispatch=table is None)(
            *[_own_value(arguments[place]) for place in places]
        )


def _own_value(node: fx.Node) -> Any:
    """The node's fake value as a new object. Nodes may share an object, and tracing identifies values by it."""
    value = node.meta["val"]
    return _aten.alias.default(value) if isinstance(value, torch.Tensor) else value


def _copied(
    module: fx.GraphModule, traced: fx.GraphModule, old: fx.Node, made: dict[fx.Node, fx.Node], node: fx.Node
) -> fx.Node:
    if old.op != "get_attr":
        return module.graph.node_copy(old, made.__getitem__)
    name = unused_name(module, f"{node.name}_constant")
    set_state(module, name, get_state(traced, str(old.target)))
    return module.graph.get_attr(name)


def _use(node: fx.Node, results: Any) -> None:
    """Replaces the result of an operator, or each of its results, by that of its decomposition."""
    if isinstance(results, fx.Node):
        node.replace_all_uses_with(results)
        return
    for user in list(node.users):
        if user.target is operator.getitem:
            user.replace_all_uses_with(results[user.args[1]])
            user.graph.erase_node(user)
    node.replace_all_uses_with(results)
