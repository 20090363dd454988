"""`Region`: a part of a program for one backend; and how a program is split into regions.

Regions are convex: nothing outside a region lies on a path between two of its operators. So they can run one after another, each as a
whole, in the order in which `split` gives them.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from recfx.errors import TargetError
from recfx.ir.program import Program, copy_module
from recfx.ir.provenance import where
from recfx.ir.shapes import BATCH
from recfx.ir.sizes import dimension_names


@dataclasses.dataclass(frozen=True)
class Region:
    """A graph with flat inputs and outputs. It has no calling convention of a user and no origins.

    Attributes:
        module: The graph module: placeholders are the inputs, `get_attr` nodes read state under the program's names, and the output is a
            flat tuple.
        batch: The symbol of the batch; None when nothing varies.
        inputs: Names of the program's nodes whose values it takes, in the order of the placeholders.
        outputs: Names of the program's nodes whose values it gives, in order.
        checked: Those of `inputs` whose sizes the entry of the compiled model has checked.
    """

    module: fx.GraphModule
    batch: Any = None
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    checked: frozenset[str] = frozenset()

    @staticmethod
    def whole(program: Program) -> Region:
        """A program as one region. Its graph is the program's own."""
        names = tuple(node.name for node in program.placeholders())
        returned = next(iter(reversed(program.graph.nodes))).args[0]
        outputs = tuple(value.name if isinstance(value, fx.Node) else "" for value in returned)
        return Region(program.module, batch_symbol(program), names, outputs, frozenset(names))

    @property
    def graph(self) -> fx.Graph:
        """The graph of `module`."""
        return self.module.graph

    def placeholders(self) -> list[fx.Node]:
        """The input nodes."""
        return list(self.graph.find_nodes(op="placeholder"))

    def clone(self) -> Region:
        """A copy whose graph can be edited freely; tensors are shared."""
        return dataclasses.replace(self, module=copy_module(self.module))

    def run(self, values: Sequence[Any]) -> list[Any]:
        """Runs the graph on flat inputs, node by node, without gradients: its slow, plain meaning."""
        with torch.no_grad():
            return list(fx.Interpreter(self.module).run(*values))


@dataclasses.dataclass(frozen=True)
class Split:
    """A program as regions.

    Attributes:
        program: The program.
        regions: The regions, each behind those whose outputs it reads.
        backends: The backend of each region.
    """

    program: Program
    regions: tuple[Region, ...]
    backends: tuple[str, ...]

    def members(self, index: int) -> list[str]:
        """Names of the program's operators in a region."""
        known = {node.name for node in self.program.graph.nodes if node.op == "call_function"}
        return [n.name for n in self.regions[index].graph.nodes if n.op == "call_function" and n.name in known]


def split(program: Program, assignment: Mapping[fx.Node, str], default: str = "eager") -> Split:
    """Splits a program into convex regions, as few as taking in turns everything of one backend that is ready gives.

    Sizes and parts of tuples join the region in which they are first ready, whatever the assignment says of them.

    Args:
        program: The program.
        assignment: Operator -> name of the backend that shall run it.
        default: The backend of a program without operators.

    Raises:
        TargetError: An operator has no backend.
    """
    calls = [node for node in program.graph.nodes if node.op == "call_function"]
    for node in calls:
        if node not in assignment and not _joins_any(node):
            raise TargetError("no backend was chosen for an operator", where=where(node))
    backends = list(dict.fromkeys(assignment[node] for node in calls if not _joins_any(node)))
    if len(backends) <= 1:
        return Split(program, (Region.whole(program),), tuple(backends) or (default,))
    regions, names = [], []
    for backend, members in _groups(calls, assignment):
        regions.append(_region(program, members))
        names.append(backend)
    return Split(program, tuple(regions), tuple(names))


def batch_symbol(program: Program) -> Any:
    """The symbol of the batch: that of the dimension which the signature calls so, else of the first free size of the inputs.

    None when nothing varies.
    """
    free = [
        (name, size.node.expr)
        for node, leaf in zip(program.placeholders(), program.signature.leaves, strict=True)
        for name, size in zip(leaf.shape, getattr(node.meta.get("val"), "shape", ()), strict=False)
        if isinstance(size, torch.SymInt)
    ]
    for name, expression in free:
        if dimension_names(name) == [BATCH] and len(expression.free_symbols) == 1:
            return next(iter(expression.free_symbols))
    return next((expression for _, expression in free if expression.is_Symbol), None)


def _joins_any(node: fx.Node) -> bool:
    """Whether a node belongs to no backend of its own: a size, or a part of a tuple."""
    sizes = torch.SymInt | torch.SymFloat | torch.SymBool | int | float
    return node.target is operator.getitem or isinstance(node.meta.get("val"), sizes)


def _groups(calls: Sequence[fx.Node], assignment: Mapping[fx.Node, str]) -> Iterable[tuple[str, list[fx.Node]]]:
    """The operators of each region."""
    waiting, left = set(calls), list(calls)
    backend = ""
    while left:
        ready = [n for n in left if not waiting.intersection(n.all_input_nodes)]
        # Where only sizes and parts are ready, they go with the first operator that waits for them, or with the last region.
        backend = next((assignment[n] for n in (*ready, *left) if not _joins_any(n)), backend)
        members = []
        for node in left:
            if waiting.intersection(node.all_input_nodes):
                continue
            if _joins_any(node) or assignment[node] == backend:
                members.append(node)
                waiting.discard(node)
        left = [node for node in left if node in waiting]
        yield backend, members


def _region(program: Program, members: Sequence[fx.Node]) -> Region:
    inside = set(members)
    sources = dict.fromkeys(
        s for node in members for s in node.all_input_nodes if s not in inside and s.op != "get_attr"
    )
    outputs = [node for node in members if any(user not in inside for user in node.users)]
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for source in sources:
        copies[source] = graph.placeholder(source.name)
        copies[source].meta = dict(source.meta)
    for node in members:
        for source in node.all_input_nodes:
            if source.op == "get_attr" and source not in copies:
                copies[source] = graph.node_copy(source)
        copies[node] = graph.node_copy(node, lambda n: copies[n])
    graph.output(tuple(copies[node] for node in outputs))
    return Region(
        fx.GraphModule(program.module, graph),
        batch_symbol(program),
        tuple(source.name for source in sources),
        tuple(node.name for node in outputs),
        frozenset(source.name for source in sources if source.op == "placeholder"),
    )
