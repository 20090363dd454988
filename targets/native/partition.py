"""Splits a program into plans and what torch runs between them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import torch
from torch import fx

from recfx.ir.region import Region
from recfx.ir.sizes import asks_for_data
from recfx.kernels.codes import Place
from recfx.kernels.library import Library
from recfx.targets.base import is_operator
from recfx.targets.native.builder import PlanBuilder
from recfx.targets.native.call import Checks, plan_call
from recfx.targets.native.plan import Plan
from recfx.targets.native.rules.copies import copy
from recfx.targets.native.rules.registry import RULES
from recfx.targets.native.rules.view import PARTS, drops_the_batch
from recfx.targets.native.snapshot import Snapshot
from recfx.targets.native.steps import Slot
from recfx.targets.native.torch_path import TorchPath
from recfx.targets.native.values import Unsupported, contiguous
from recfx.targets.native.weights import Packer


@dataclasses.dataclass
class Partition:
    """A region whose plans are single nodes.

    Attributes:
        region: The region to run.
        plans: How many plans it calls.
        refused: Node -> why torch runs it.
        left: The operators that torch runs, in order: name and reason.
    """

    region: Region
    plans: int
    refused: dict[fx.Node, str]
    left: tuple[tuple[str, str], ...] = ()


class Partitioner:
    """Lowers a region.

    Args:
        region: The region; it is left as it is.
        library: The kernel library.
        level: The instruction-set level.
    """

    def __init__(self, region: Region, library: Library, level: str) -> None:
        self.region, self.library, self.level = region, library, level
        self.batch = region.batch
        self.refused: dict[fx.Node, str] = {}
        self.graph = fx.Graph()
        self.copies: dict[fx.Node, fx.Node] = {}
        self.plans = 0
        self._sized = {n for n in region.placeholders() if self._is_checked_at_entry(n)}
        self._packer = Packer(library, level)

    @property
    def tables(self) -> list[torch.Tensor]:
        """What the plans read row by row."""
        return list(self._packer.tables.values())

    def run(self) -> Partition:
        """Takes, in turns, everything ready that a plan can hold, then what it cannot."""
        nodes = list(self.region.graph.nodes)
        for node in nodes:
            if node.op in ("placeholder", "get_attr"):
                self.copies[node] = self.graph.node_copy(node)
        left = [n for n in nodes if n.op == "call_function"]
        self._refuse_varying_ranks(left)
        done = {n for n in nodes if n.op in ("placeholder", "get_attr")}
        while left:
            builder = self._builder()
            taken = self._take(builder, left, done)
            if taken:
                self._close(builder, taken, done)
            left = [n for n in left if n not in done]
            left = self._torch(left, done)
        output = next(n for n in nodes if n.op == "output")
        self.graph.node_copy(output, lambda n: self.copies[n])
        self.graph.eliminate_dead_code()
        module = fx.GraphModule(self.region.module, self.graph)
        return Partition(dataclasses.replace(self.region, module=module), self.plans, self.refused, self._left())

    def _left(self) -> tuple[tuple[str, str], ...]:
        """The operators of the finished graph that are not plans, with the reason why."""
        alive = set(self.graph.nodes)
        copied = [n for n, copy in self.copies.items() if is_operator(n) and copy in alive and copy.target is n.target]
        return tuple((str(node.target), self.refused.get(node, "only what torch runs reads it")) for node in copied)

    def _refuse_varying_ranks(self, nodes: Iterable[fx.Node]) -> None:
        """Leaves to torch what has another rank when the batch is one row, and all that comes of it."""
        for node in nodes:
            varying = next((source for source in node.all_input_nodes if source in self.refused), None)
            if drops_the_batch(node):
                self.refused[node] = "its rank depends on the batch"
            elif varying is not None:
                self.refused[node] = f"it comes of {varying}, whose rank may depend on the batch"

    def _builder(self) -> PlanBuilder:
        return PlanBuilder(
            self.region.module,
            self._packer,
            self.batch,
            lambda n: n.target in RULES and n not in self.refused,
        )

    def _take(self, builder: PlanBuilder, left: Iterable[fx.Node], done: set[fx.Node]) -> list[fx.Node]:
        """Lowers every node whose inputs are there and that has a rule which does not refuse it."""
        taken: list[fx.Node] = []
        held = set(done)
        for node in left:
            if _is_size(node) and all(i in held for i in node.all_input_nodes):
                taken.append(node)
                held.add(node)
                continue
            if node in self.refused or not all(i in held for i in node.all_input_nodes):
                continue
            function = RULES.get(node.target)
            if function is None:
                self.refused[node] = f"no kernel for {node.target}"
                continue
            if _is_empty(node) or any(_is_empty(source) for source in node.all_input_nodes):
                self.refused[node] = "it reads or gives a tensor without elements"
                continue
            snapshot = Snapshot(builder)
            try:
                function(builder, node)
            except Exception as error:  # noqa: BLE001 - `_reason` raises again what no rule may raise
                self.refused[node] = _reason(error)
                snapshot.restore(builder)
                continue
            builder.lowered.append(node)
            taken.append(node)
            held.add(node)
        return taken

    def _close(self, builder: PlanBuilder, taken: list[fx.Node], done: set[fx.Node]) -> None:
        """Makes a plan of what was taken. Views of what lies outside stay torch's."""
        inside = set(taken)
        wanted = [
            n for n in taken if any(u not in inside for u in n.users) and n.target not in PARTS and not _is_size(n)
        ]
        outputs: list[tuple[fx.Node, int]] = []
        views: list[fx.Node] = []
        for node in wanted:
            place = builder.slots[builder.values[node].slot].place
            if place in (Place.INPUT, Place.CONST):
                views.append(node)
                continue
            try:
                outputs.append((node, _output(builder, node)))
            except Unsupported as reason:
                self.refused[node] = str(reason)
                return  # next time round without it
        parts = [n for n in taken if (n.target in PARTS or _is_size(n)) and any(u not in inside for u in n.users)]
        self._emit(builder, outputs)
        for node in [*views, *parts]:
            self._copy(node)
        done.update(taken)

    def _emit(self, builder: PlanBuilder, outputs: list[tuple[fx.Node, int]]) -> None:
        if not outputs:
            return
        used = {s for step in builder.steps for s in [v.slot for v in step.views.values()]}
        used |= {f[name] for step in builder.steps for f in step.features for name in ("ids", "offsets", "weights")}
        inputs = [i for i, s in enumerate(builder.slots) if s.place is Place.INPUT and i in used]
        if any(not s.once and s.place is Place.OUTPUT for s in builder.slots) and not any(
            not builder.slots[i].once for i in inputs
        ):
            inputs += self._batch_source(builder)
        arguments = [*inputs, *(slot for _, slot in outputs)]
        plan = Plan(self.library, self.level, builder, arguments)
        sources = [source for i in inputs if (source := builder.slots[i].node) is not None]
        checked = [at for at, i in enumerate(inputs) if sources[at] not in self._sized and not builder.slots[i].jagged]
        checks = Checks()
        if checked:
            path = TorchPath(self.region, [node for node, _ in outputs], self.copies)
            sources += path.sources
            checks = Checks(checked, path, len(path.sources))
        else:
            self._sized |= {node for node, _ in outputs}
        call = plan_call(plan, self.library, builder, arguments, len(outputs), checks)
        call.__name__ = f"native_plan_{self.plans}"
        self.plans += 1
        node = self.graph.call_function(_Call(call, plan), tuple(self.copies[s] for s in sources))
        if len(outputs) == 1:
            self.copies[outputs[0][0]] = node
            return
        for position, (original, _) in enumerate(outputs):
            self.copies[original] = self.graph.call_function(_getitem, (node, position))

    def _is_checked_at_entry(self, node: fx.Node) -> bool:
        """Whether the entry of a compiled model has compared all sizes of an input: fixed ones, and the batch itself as the first."""
        held = node.meta.get("val")
        if not isinstance(held, torch.Tensor) or node.name not in self.region.checked:
            return False
        return all(
            isinstance(size, int) or (axis == 0 and size.node.expr == self.batch)
            for axis, size in enumerate(held.shape)
        )

    def _batch_source(self, builder: PlanBuilder) -> list[int]:
        """An input that tells the batch to a plan all of whose own inputs have one row."""
        for node in self.region.placeholders():
            try:
                value = builder.value(node)
            except Unsupported:
                continue
            if value.batched:
                return [value.slot]
        return []  # jagged lookups tell it by their offsets

    def _torch(self, left: list[fx.Node], done: set[fx.Node]) -> list[fx.Node]:
        """Gives torch everything ready that no plan can hold."""
        rest = []
        for node in left:
            if node in self.refused and all(i in done for i in node.all_input_nodes):
                self._copy(node)
                done.add(node)
            else:
                rest.append(node)
        return rest

    def _copy(self, node: fx.Node) -> fx.Node:
        """A node for torch; views of outside values that only plans saw so far come with it."""
        if node not in self.copies:
            for source in node.all_input_nodes:
                self._copy(source)
            self.copies[node] = self.graph.node_copy(node, lambda n: self.copies[n])
        return self.copies[node]


def _reason(error: Exception) -> str:
    """Why torch runs a node whose rule raised; any other error is raised again."""
    if isinstance(error, Unsupported) or asks_for_data(error):
        return str(error).splitlines()[0]
    if isinstance(error, ArithmeticError | AttributeError | LookupError | TypeError | ValueError):
        # An argument of a form that the rule does not know, such as a size where it reads a number.
        return f"its rule does not take these arguments: {type(error).__name__}: {error}"
    raise error


def _is_size(node: fx.Node) -> bool:
    """Whether a node gives a size; plans know sizes by themselves."""
    return isinstance(node.meta.get("val"), torch.SymInt | int) and not isinstance(node.meta.get("val"), bool)


def _is_empty(node: fx.Node) -> bool:
    """Whether a node gives a tensor that never has an element; kernels divide by sizes and read first elements."""
    held = node.meta.get("val")
    tensors = held if isinstance(held, list | tuple) else (held,)
    return any(isinstance(t, torch.Tensor) and any(isinstance(s, int) and s == 0 for s in t.shape) for t in tensors)


class _Call:
    """A plan as the target of a node."""

    def __init__(self, call: Any, plan: Plan) -> None:
        self.call, self.plan = call, plan
        self.__name__ = call.__name__
        self.__module__ = __name__
        self.__qualname__ = self.__name__

    def __call__(self, *args: Any) -> Any:
        return self.call(*args)

    def __str__(self) -> str:
        return str(self.__name__)


def _getitem(values: Any, index: int) -> Any:
    return values[index]


def _output(builder: PlanBuilder, node: fx.Node) -> int:
    """The slot through which a node's tensor leaves the plan: its own, or one it is copied to."""
    value = builder.values[node]
    if value.mixed:
        raise Unsupported("the batch lies inside a dimension of what leaves the plan")
    shape = builder.shape(node)
    if any(d.batch for d in shape[1:]):
        raise Unsupported("the batch is not the first dimension of what leaves the plan")
    slot = builder.slots[value.slot]
    own = contiguous(value.slot, shape)
    if slot.place is Place.TEMP and own == value and slot.width == value.width and slot.once is not value.batched:
        builder.slots[value.slot] = dataclasses.replace(slot, place=Place.OUTPUT, node=node)
        return value.slot
    target = contiguous(len(builder.slots), shape)
    builder.slots.append(Slot(Place.OUTPUT, slot.dtype, target.width, not target.batched, node=node))
    copy(builder, value, target)
    return target.slot


__all__ = ["Partition", "Partitioner"]
