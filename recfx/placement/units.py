"""Units: the parts of a program that placement gives to one backend as a whole, and the tensors between them.

A unit is one operator with the views of its result and the elementwise operators that follow it without a branch. Operators join a unit
only if they can run on every backend that can run the unit, so that no choice of backends is lost. Sizes belong to no unit: every region
computes the sizes that it needs.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Mapping, Sequence

import torch
from torch import fx

from recfx.ir.op_sets import BROADCASTS, COPIES, PERMUTATIONS, REGROUPINGS, SLICES, SPLITS
from recfx.ir.program import Program
from recfx.ir.region import Region, joins_any, region_of
from recfx.targets import Verdict

_aten = torch.ops.aten

#: Views: operators that compute no numbers.
_VIEWS = frozenset(
    (*REGROUPINGS, *PERMUTATIONS, *BROADCASTS, *SLICES, *SPLITS, *COPIES, _aten.select.int, _aten.unbind.int)
)


@dataclasses.dataclass(frozen=True)
class Unit:
    """Operators that run on one backend.

    Attributes:
        nodes: The operators in the order of the program, with parts of tuples.
        backends: The backends that can run all of them, in the order in which they are tried.
        region: The operators as a region, whose time is estimated.
    """

    nodes: tuple[fx.Node, ...]
    backends: tuple[str, ...]
    region: Region


@dataclasses.dataclass(frozen=True)
class UnitGraph:
    """A program as units.

    Attributes:
        program: The program.
        units: The units, in the order of their first operators.
        unit_of: Operator -> the index of its unit. Sizes are missing.
        backends: Names of all backends, in the order in which they are tried.
    """

    program: Program
    units: tuple[Unit, ...]
    unit_of: Mapping[fx.Node, int]
    backends: tuple[str, ...]

    def edges(self) -> dict[tuple[int, int], list[fx.Node]]:
        """(producer, consumer) -> the tensors that the consumer reads from the producer."""
        found: dict[tuple[int, int], list[fx.Node]] = {}
        for node, consumer in self.unit_of.items():
            for source in node.all_input_nodes:
                producer = self.unit_of.get(source)
                if producer is not None and producer != consumer:
                    tensors = found.setdefault((producer, consumer), [])
                    if source not in tensors:
                        tensors.append(source)
        return found


def unit_graph(program: Program, verdicts: Mapping[str, Mapping[fx.Node, Verdict]]) -> UnitGraph:
    """Divides a program into units.

    Args:
        program: The program after all passes.
        verdicts: Backend -> its verdict on each operator, in the order in which the backends are tried.
    """
    calls = [node for node in program.graph.nodes if node.op == "call_function" and not _is_size(node)]
    support = {node: tuple(name for name, of in verdicts.items() if of[node]) for node in calls}
    members: list[list[fx.Node]] = []
    unit_of: dict[fx.Node, int] = {}
    for node in calls:
        joined = _joins(node, unit_of, members, support)
        if joined is None:
            joined = len(members)
            members.append([])
        members[joined].append(node)
        unit_of[node] = joined
    whole = Region.whole(program)
    order = {node: at for at, node in enumerate(program.graph.nodes)}
    units = tuple(
        Unit(tuple(nodes), support[nodes[0]], region_of(whole, sorted(_with_sizes(nodes), key=order.__getitem__)))
        for nodes in members
    )
    return UnitGraph(program, units, unit_of, tuple(verdicts))


def _is_size(node: fx.Node) -> bool:
    return joins_any(node) and node.target is not operator.getitem


def _joins(
    node: fx.Node,
    unit_of: Mapping[fx.Node, int],
    members: Sequence[Sequence[fx.Node]],
    support: Mapping[fx.Node, tuple[str, ...]],
) -> int | None:
    """The unit that an operator joins; None if it begins a new one."""
    sources = [source for source in node.all_input_nodes if source in unit_of]
    if len(sources) != 1:
        return None
    source = sources[0]
    unit = unit_of[source]
    if node.target is operator.getitem:
        return unit
    needed = support[members[unit][0]]
    if not set(needed) <= set(support[node]) or (not needed and support[node]):
        return None
    if node.target in _VIEWS:
        return unit
    follows = len([user for user in source.users if not _is_size(user)]) == 1
    return unit if follows and _is_elementwise(node) and _reads_one_tensor(node, source) else None


def _reads_one_tensor(node: fx.Node, source: fx.Node) -> bool:
    """Whether an operator reads one computed tensor and otherwise only weights and sizes."""
    return all(other is source or other.op == "get_attr" or _is_size(other) for other in node.all_input_nodes)


def _is_elementwise(node: fx.Node) -> bool:
    """Whether torch declares an operator as elementwise."""
    return isinstance(node.target, torch._ops.OpOverload) and torch.Tag.pointwise in node.target.tags


def _with_sizes(nodes: Sequence[fx.Node]) -> set[fx.Node]:
    """Operators with the sizes that they read from their own operands.

    A size of an operand is computed in the unit; a size of another tensor is an input of the unit.
    """
    operands = {source for node in nodes for source in node.all_input_nodes}
    sizes = {node for node in operands if node.op == "call_function" and _is_size(node)}
    return {*nodes, *(size for size in sizes if operands.issuperset(size.all_input_nodes))}
