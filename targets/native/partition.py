"""Finds the operators that the native backend can run, by a dry run of its rules before anything is lowered."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Container, Iterable, Iterator
from functools import partial

import torch
from torch import fx

from recfx.ir.region import Region
from recfx.ir.sizes import asks_for_data
from recfx.kernels.codes import Place
from recfx.targets.base import is_operator
from recfx.targets.native.builder import PlanBuilder
from recfx.targets.native.rules.copies import copy
from recfx.targets.native.rules.registry import RULES
from recfx.targets.native.rules.view import drops_the_batch
from recfx.targets.native.steps import Slot
from recfx.targets.native.values import Unsupported, contiguous
from recfx.targets.native.weights import Packer

#: The reason for a view of a plan's input that no step of the plan reads.
ONLY_TORCH = "only operators that torch runs read it"


def refusals(region: Region, packer: Packer) -> dict[fx.Node, str]:
    """The operators of a program that no plan can hold, and why.

    A plan ends where an operator is refused. The operator before that end may be refused in turn, since no plan can output a tensor of
    its layout. So the rules run again until they refuse nothing new.

    Args:
        region: The whole program.
        packer: A `DryPacker`.
    """
    refused = varying_ranks(region)
    while True:
        attempt = _Turns(region, packer, refused)
        more = attempt.run()
        if not more:
            return attempt.refused
        refused |= more


def varying_ranks(region: Region) -> dict[fx.Node, str]:
    """The operators whose results have another rank when the batch is one row, and all operators that depend on them."""
    found: dict[fx.Node, str] = {}
    for node in calls(region):
        varying = next((source for source in node.all_input_nodes if source in found), None)
        if drops_the_batch(node):
            found[node] = "its rank depends on the batch"
        elif varying is not None:
            found[node] = f"it reads {varying}, whose rank may depend on the batch"
    return found


def calls(region: Region) -> list[fx.Node]:
    """The operators, sizes and parts of a region, in order."""
    return [node for node in region.graph.nodes if node.op == "call_function"]


def refusal(builder: PlanBuilder, node: fx.Node) -> str | None:
    """Adds the steps of an operator to a plan.

    Returns:
        None, or why a plan cannot hold it; the plan is then as it was before.
    """
    function = RULES.get(node.target)
    if function is None:
        return f"no kernel for {node.target}"
    if any(builder.known(("empty", n), partial(_is_empty, n)) for n in (node, *node.all_input_nodes)):
        return "one of its inputs, or its result, has no elements"
    mark = builder.mark()
    try:
        function(builder, node)
    except Exception as error:  # noqa: BLE001 - `_reason` raises an unexpected error again
        builder.undo(mark)
        if builder.dry and not isinstance(error, Unsupported):
            return _with_tensors(builder, node)
        return _reason(error)
    builder.lowered[node] = None
    return None


def _with_tensors(builder: PlanBuilder, node: fx.Node) -> str | None:
    """`refusal` once more, for a rule that failed on the shape of a constant."""
    builder.dry = False
    try:
        return refusal(builder, node)
    finally:
        builder.dry = True


def _reason(error: Exception) -> str:
    """Why torch runs a node whose rule raised; any other error is raised again."""
    if isinstance(error, Unsupported) or asks_for_data(error):
        return str(error).splitlines()[0]
    if isinstance(error, ArithmeticError | AttributeError | LookupError | TypeError | ValueError):
        # An argument of a form that the rule does not know, such as a size where it reads a number.
        return f"its rule does not take these arguments: {type(error).__name__}: {error}"
    raise error


def _is_empty(node: fx.Node) -> bool:
    """Whether a node's tensor never has an element; kernels divide by sizes and read first elements."""
    held = node.meta.get("val")
    tensors = held if isinstance(held, list | tuple) else (held,)
    return any(isinstance(t, torch.Tensor) and any(isinstance(s, int) and s == 0 for s in t.shape) for t in tensors)


@dataclasses.dataclass(frozen=True)
class Leaving:
    """The nodes that leave a plan, in program order.

    Attributes:
        outputs: Nodes whose tensors steps of the plan compute.
        views: Nodes that no step computes: views of the plan's inputs and constants, and sizes.
    """

    outputs: list[fx.Node]
    views: list[fx.Node]


def leaving(builder: PlanBuilder, read: Iterable[fx.Node], members: Container[fx.Node]) -> Leaving:
    """The nodes that must leave a plan for the nodes in `read`.

    Args:
        builder: The plan.
        read: The nodes that are read outside.
        members: The nodes of the plan; all others are its inputs.
    """
    outputs, views = set[fx.Node](), set[fx.Node]()
    pending = list(read)
    while pending:
        node = pending.pop()
        if node in outputs or node in views or node not in members:
            continue
        if _has_memory(builder, node):
            outputs.add(node)
        else:
            views.add(node)
            pending += node.all_input_nodes
    return Leaving(sorted(outputs), sorted(views))


def _has_memory(builder: PlanBuilder, node: fx.Node) -> bool:
    """Whether a node's tensor lies in memory of the plan."""
    value = builder.values.get(node)
    return value is not None and builder.slots[value.slot].place not in (Place.INPUT, Place.CONST)


def output_slot(builder: PlanBuilder, node: fx.Node) -> int:
    """The slot through which a node's tensor leaves the plan: its own slot, or a new one with a copy of the tensor.

    Raises:
        Unsupported: A plan cannot output a tensor of this layout or dtype.
    """
    value = builder.values[node]
    if value.mixed:
        raise Unsupported("the batch lies inside a dimension of an output of the plan")
    shape = builder.shape(node)
    if any(d.batch for d in shape[1:]):
        raise Unsupported("the batch is not the first dimension of an output of the plan")
    slot = builder.slots[value.slot]
    own = contiguous(value.slot, shape)
    if slot.place is Place.TEMP and own == value and slot.width == value.width and slot.once is not value.batched:
        builder.slots[value.slot] = dataclasses.replace(slot, place=Place.OUTPUT, node=node)
        return value.slot
    target = contiguous(len(builder.slots), shape)
    builder.slots.append(Slot(Place.OUTPUT, slot.dtype, target.width, not target.batched, node=node))
    copy(builder, value, target)
    return target.slot


class _Turns:
    """One dry run. Plans and other backends take turns, as in `recfx.ir.region.split`, and all plans are built side by side.

    Args:
        region: The program.
        packer: A `DryPacker`.
        refused: Operators that are known to be refused: node -> reason.

    Attributes:
        refused: The same, plus the operators that a rule refused in this run.
    """

    def __init__(self, region: Region, packer: Packer, refused: dict[fx.Node, str]) -> None:
        self.region, self.packer, self.refused = region, packer, dict(refused)
        self.turn: dict[fx.Node, int] = {}
        self.plans: dict[int, PlanBuilder] = {}
        #: Whether the plans have the odd turns; None before the first operator, which decides.
        self.odd: bool | None = None

    def run(self) -> dict[fx.Node, str]:
        """Runs the rules; returns the operators that are refused because of the places where the plans end."""
        more: dict[fx.Node, str] = {}
        for node in calls(self.region):
            ready = max((self.turn[source] for source in node.all_input_nodes if source in self.turn), default=0)
            if is_operator(node):
                self.turn[node] = self._take(node, ready)
                continue
            self.turn[node] = ready  # sizes and parts belong to the turn in which they are ready
            source = node.args[0] if node.target is operator.getitem else None
            if isinstance(source, fx.Node) and source in self.turn and source not in self.refused:
                reason = refusal(self.plans[self.turn[source]], node)
                if reason is not None:
                    more.setdefault(source, reason)
        members: dict[int, list[fx.Node]] = {}
        for node, turn in self.turn.items():
            members.setdefault(turn, []).append(node)
        for turn, builder in sorted(self.plans.items()):
            more |= dict(self._refused_at_end(members[turn], builder))
        return more

    def _take(self, node: fx.Node, ready: int) -> int:
        """The turn of an operator: the next turn of a plan, or of the other backends if the rule refuses the operator."""
        if node in self.refused:
            self.odd = True if self.odd is None else self.odd
            return self._next(ready, odd=not self.odd)
        turn = self._next(ready, odd=bool(self.odd))
        builder = self.plans.get(turn) or self._plan()
        reason = refusal(builder, node)
        if reason is None:
            self.odd = bool(self.odd)
            self.plans[turn] = builder
            return turn
        self.refused[node] = reason
        return self._take(node, ready)

    @staticmethod
    def _next(turn: int, *, odd: bool) -> int:
        return turn + (turn % 2 != odd)

    def _plan(self) -> PlanBuilder:
        may_hold = lambda node: node.target in RULES and node not in self.refused  # noqa: E731
        return PlanBuilder(self.region.module, self.packer, self.region.batch, may_hold, dry=True)

    def _refused_at_end(self, members: list[fx.Node], builder: PlanBuilder) -> Iterator[tuple[fx.Node, str]]:
        """Operators whose tensors one plan cannot output, and views that none of its steps reads."""
        inside = set(members)
        read = [node for node in members if any(user not in inside for user in node.users)]
        left = leaving(builder, read, inside)
        for node in self._views_of_others(left, inside):
            if is_operator(node):
                yield node, ONLY_TORCH
        failed, outputs = set[fx.Node](), set(left.outputs)
        for node in members:
            if any(source in failed for source in node.all_input_nodes):
                failed.add(node)  # its tensor may lie elsewhere once its source is an input
            elif node in outputs:
                try:
                    output_slot(builder, node)
                except Unsupported as reason:
                    failed.add(node)
                    yield node, reason.what

    def _views_of_others(self, left: Leaving, members: set[fx.Node]) -> list[fx.Node]:
        """Views that only operators of other backends read; in a turn without steps, all views if other backends run at all."""
        alone = not left.outputs and bool(self.refused)
        needed = _behind(left.outputs, members)
        found: dict[fx.Node, None] = {}
        for node in reversed(left.views):
            outside = (user for user in node.users if user.op != "output" and (user not in members or user in found))
            if node not in needed and (alone or any(outside)):
                found[node] = None
        return list(found)


def _behind(nodes: Iterable[fx.Node], members: Container[fx.Node]) -> set[fx.Node]:
    """Nodes and all their direct and indirect sources."""
    found, pending = set[fx.Node](), list(nodes)
    while pending:
        node = pending.pop()
        if node not in found and node in members:
            found.add(node)
            pending += node.all_input_nodes
    return found
