"""`Region`, a part of a program for one backend, and the split of a program into regions.

Regions are convex: no operator outside a region lies on a path between two of its operators. They can therefore run one after another,
each as a whole, in the order that `split` returns.
"""

from __future__ import annotations

import dataclasses
import heapq
import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from recfx.errors import TargetError
from recfx.ir.program import Program, copy_module
from recfx.ir.provenance import where
from recfx.ir.run_graph import run_graph
from recfx.ir.shapes import BATCH
from recfx.ir.sizes import dimension_names


@dataclasses.dataclass(frozen=True)
class Region:
    """A graph with flat inputs and outputs, without the calling convention and the origins of a program.

    Attributes:
        module: The graph module: placeholders are the inputs, `get_attr` nodes read state under the program's names, and the output is a
            flat tuple.
        batch: The symbol of the batch; None when all sizes are fixed.
        inputs: Names of the program's nodes that are its inputs, in the order of the placeholders.
        outputs: Names of the program's nodes that are its outputs, in order.
        checked: Names in `inputs` whose sizes are known when the region runs: the entry of the compiled model has checked them, or the
            region that computes them guarantees them.
        part_of: The whole program as a region; None when this region is the whole program.
        shared: Data that a backend keeps for all regions of a program, such as packed weights.
    """

    module: fx.GraphModule
    batch: Any = None
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    checked: frozenset[str] = frozenset()
    part_of: Region | None = dataclasses.field(default=None, compare=False, repr=False)
    shared: dict[str, Any] = dataclasses.field(default_factory=dict, compare=False, repr=False)

    @staticmethod
    def whole(program: Program) -> Region:
        """A program as one region, which shares the program's graph."""
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
        """Runs the graph on flat inputs, node by node, without gradients: the slow reference."""
        with torch.no_grad():
            return run_graph(self.module, values)


@dataclasses.dataclass(frozen=True)
class Split:
    """A program split into regions.

    Attributes:
        program: The program.
        regions: The regions in the order of the run: each comes after the regions whose outputs it reads.
        backends: The backend of each region.
    """

    program: Program
    regions: tuple[Region, ...]
    backends: tuple[str, ...]

    def members(self, index: int) -> list[str]:
        """Names of the operators of the region with this index."""
        return [node.name for node in self.regions[index].graph.nodes if node.op == "call_function"]


def split(
    program: Program,
    assignment: Mapping[fx.Node, str],
    default: str = "eager",
    shared: dict[str, Any] | None = None,
) -> Split:
    """Splits a program into convex regions. Each region takes all operators of one backend whose operands are ready.

    Sizes and parts of tuples join the first region in which they are ready, whatever their assignment.

    Args:
        program: The program.
        assignment: Operator -> name of its backend.
        default: The backend of a program without operators.
        shared: The data that backends keep for the regions. Pass `shared` of an earlier split of the program to reuse its data.

    Raises:
        TargetError: An operator has no backend.
    """
    found = grouped(program, assignment)
    whole = dataclasses.replace(Region.whole(program), shared={} if shared is None else shared)
    if len(found) <= 1:
        return Split(program, (whole,), (found[0][0] or default if found else default,))
    regions = tuple(region_of(whole, members) for _, members in found)
    return Split(program, regions, tuple(backend for backend, _ in found))


def grouped(program: Program, assignment: Mapping[fx.Node, str]) -> list[tuple[str, list[fx.Node]]]:
    """The backend and the operators of each region that `split` makes, in the order of the run.

    The backend is "" when no operator of the region needs one.

    Raises:
        TargetError: An operator has no backend.
    """
    calls = [node for node in program.graph.nodes if node.op == "call_function"]
    for node in calls:
        if node not in assignment and not joins_any(node):
            raise TargetError(
                "the assignment has no backend for an operator",
                where=where(node),
                hint="assign a backend to every operator, such as 'eager'",
            )
    return list(_Grouping(calls, assignment).groups())


def batch_symbol(program: Program) -> Any:
    """The symbol of the batch: of the dimension "batch" in the signature, else of the first dynamic size of the inputs.

    None when all sizes are fixed.
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


def joins_any(node: fx.Node) -> bool:
    """Whether a node needs no backend of its own: a size, or a part of a tuple."""
    sizes = torch.SymInt | torch.SymFloat | torch.SymBool | int | float
    return node.target is operator.getitem or isinstance(node.meta.get("val"), sizes)


class _Grouping:
    """Forms regions: each takes all operators of one backend whose operands are ready.

    Args:
        calls: The operators, in order.
        assignment: Operator -> backend.
    """

    def __init__(self, calls: Sequence[fx.Node], assignment: Mapping[fx.Node, str]) -> None:
        self.calls = calls
        self.place = {node: at for at, node in enumerate(calls)}
        #: The backend of each operator; None for sizes and parts of tuples.
        self.backend = [None if joins_any(node) else assignment[node] for node in calls]
        self.missing = [sum(source in self.place for source in node.all_input_nodes) for node in calls]
        self.ready: dict[str | None, list[int]] = {}
        for at, missing in enumerate(self.missing):
            if not missing:
                self._add(at)

    def groups(self) -> Iterator[tuple[str, list[fx.Node]]]:
        """The regions."""
        taken, first, backend = 0, 0, ""
        done = [False] * len(self.calls)
        while taken < len(self.calls):
            # The first ready operator decides. If only sizes and parts are ready, the first operator that waits for them decides.
            heads = [held[0] for name, held in self.ready.items() if name is not None and held]
            while first < len(self.calls) and (done[first] or self.backend[first] is None):
                first += 1
            head = min(heads, default=first)
            if head < len(self.calls):
                backend = self.backend[head] or backend
            members = self._take(backend)
            for at in members:
                done[at] = True
            taken += len(members)
            yield backend, [self.calls[at] for at in members]

    def _take(self, backend: str) -> list[int]:
        """All operators of a backend that are ready or become ready, with ready sizes and parts."""
        members: list[int] = []
        while True:
            held = next((h for h in (self.ready.get(None), self.ready.get(backend)) if h), None)
            if held is None:
                return sorted(members)
            at = heapq.heappop(held)
            members.append(at)
            for user in self.calls[at].users:
                if user in self.place:
                    self.missing[self.place[user]] -= 1
                    if not self.missing[self.place[user]]:
                        self._add(self.place[user])

    def _add(self, at: int) -> None:
        heapq.heappush(self.ready.setdefault(self.backend[at], []), at)


def region_of(whole: Region, members: Sequence[fx.Node]) -> Region:
    """The region of some operators of a program.

    Args:
        whole: The program as one region.
        members: The operators, in the order of the program.
    """
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
    return dataclasses.replace(
        whole,
        module=fx.GraphModule(whole.module, graph),
        inputs=tuple(source.name for source in sources),
        outputs=tuple(node.name for node in outputs),
        checked=frozenset(source.name for source in sources if source.op == "placeholder"),
        part_of=whole,
    )
