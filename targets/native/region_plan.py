"""The lowering of one region: one plan, and the views of its inputs that are read outside."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from recfx.ir.region import Region
from recfx.kernels.codes import Place
from recfx.kernels.library import Library
from recfx.targets.base import Lowered, Refused, is_operator
from recfx.targets.native.builder import PlanBuilder
from recfx.targets.native.call import Checks, SizeInput, plan_call
from recfx.targets.native.partition import ONLY_TORCH, calls, leaving, output_slot, refusal, varying_ranks
from recfx.targets.native.plan import Plan
from recfx.targets.native.rules.registry import RULES
from recfx.targets.native.torch_path import TorchPath
from recfx.targets.native.values import Unsupported
from recfx.targets.native.weights import Packer


class RegionPlan:
    """Makes one plan of a region.

    Args:
        region: The region, which is not changed.
        packer: Packs the weights, for all regions of a program.
        library: The kernel library.
        level: The instruction-set level.
    """

    def __init__(self, region: Region, packer: Packer, library: Library, level: str) -> None:
        self.region, self.library, self.level = region, library, level
        self.builder = PlanBuilder(region.module, packer, region.batch, lambda node: node.target in RULES)
        self.members = calls(region)
        names = zip(region.placeholders(), region.inputs, strict=True)
        self.sized = {node: name in region.checked and self._has_plain_sizes(node) for node, name in names}

    def lower(self, backend: str) -> Lowered:
        """The region as a graph of one call of the plan, and of views.

        Raises:
            Refused: The plan cannot hold some of the operators.
        """
        self._take()
        output = next(iter(reversed(self.region.graph.nodes)))
        left = leaving(self.builder, output.all_input_nodes, set(self.members))
        slots = self._output_slots(left.outputs)
        graph = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        for node in self.region.graph.nodes:
            if node.op in ("placeholder", "get_attr"):
                copies[node] = graph.node_copy(node)
        checked = self._emit(graph, copies, list(zip(left.outputs, slots, strict=True))) if slots else False
        for node in left.views:
            copies[node] = graph.node_copy(node, lambda n: copies[n])
        graph.node_copy(output, lambda n: copies[n])
        body = dataclasses.replace(self.region, module=fx.GraphModule(self.region.module, graph))
        return Lowered(
            backend,
            self.region,
            body,
            tuple((str(node.target), ONLY_TORCH) for node in left.views if is_operator(node)),
            sum(map(is_operator, self.members)),
            frozenset() if checked else self._names(output, set(left.outputs)),
        )

    def _take(self) -> None:
        """Adds the steps of all operators to the plan."""
        refused = {node.name: reason for node, reason in varying_ranks(self.region).items()}
        behind = {node for node in self.members if node.name in refused}
        for node in self.members:
            if any(source in behind for source in node.all_input_nodes):
                behind.add(node)
            elif node not in behind and (is_operator(node) or node.target is operator.getitem):
                reason = refusal(self.builder, node)
                if reason is not None:
                    behind.add(node)
                    refused[_operator(node).name] = reason
        if refused:
            raise Refused(refused)

    def _output_slots(self, outputs: Sequence[fx.Node]) -> list[int]:
        slots, refused = [], {}
        for node in outputs:
            try:
                slots.append(output_slot(self.builder, node))
            except Unsupported as reason:
                refused[_operator(node).name] = reason.what
        if refused:
            raise Refused(refused)
        return slots

    def _emit(self, graph: fx.Graph, copies: dict[fx.Node, fx.Node], outputs: list[tuple[fx.Node, int]]) -> bool:
        """Adds the call of the plan to a graph; returns whether it compares sizes of its inputs."""
        builder = self.builder
        inputs, size = self._inputs(outputs)
        arguments = [*inputs, *(slot for _, slot in outputs)]
        plan = Plan(self.library, self.level, builder, arguments)
        sources = [source for i in inputs if (source := builder.slots[i].node) is not None]
        unknown = [at for at, i in enumerate(inputs) if not self.sized[sources[at]] and not builder.slots[i].jagged]
        checks = Checks()
        if size is not None:
            sources.append(size.node)
        if unknown:
            path = TorchPath(self.region, [node for node, _ in outputs])
            sources += path.sources
            checks = Checks(unknown, path, len(path.sources))
        call = plan_call(plan, self.library, builder, arguments, len(outputs), checks, size)
        node = graph.call_function(call, tuple(copies[source] for source in sources))
        if len(outputs) == 1:
            copies[outputs[0][0]] = node
        else:
            for position, (original, _) in enumerate(outputs):
                copies[original] = graph.call_function(operator.getitem, (node, position))
        return bool(unknown)

    def _inputs(self, outputs: Sequence[tuple[fx.Node, int]]) -> tuple[list[int], SizeInput | None]:
        """The slots of the plan's inputs, one of which gives the batch, and None; or else also the size that gives it."""
        builder = self.builder
        used = {s for step in builder.steps for s in [v.slot for v in step.views.values()]}
        used |= {f[name] for step in builder.steps for f in step.features for name in ("ids", "offsets", "weights")}
        inputs = [i for i, s in enumerate(builder.slots) if s.place is Place.INPUT and i in used]
        varies = any(not s.once and s.place is Place.OUTPUT for s in builder.slots)
        if not varies or any(not builder.slots[i].once for i in inputs):
            return inputs, None
        told = self._batched_input()
        if told is not None:
            return [*inputs, told], None
        size = self._size_input()
        if size is None and not any(builder.slots[i].jagged for i in inputs):  # the offsets of jagged lookups give it
            raise Refused({_operator(node).name: "no input of its plan gives the batch" for node, _ in outputs})
        return inputs, size

    def _batched_input(self) -> int | None:
        """The slot of an input of the region that has a row for each row of the batch."""
        for node in self.region.placeholders():
            try:
                value = self.builder.value(node)
            except Unsupported:
                continue
            if value.batched:
                return value.slot
        return None

    def _size_input(self) -> SizeInput | None:
        """An input of the region that is a multiple of the batch."""
        for node in self.region.placeholders():
            held = node.meta.get("val")
            if isinstance(held, torch.SymInt) and self.region.batch is not None:
                ratio = held.node.expr / self.region.batch
                if ratio.is_Integer:
                    return SizeInput(node, int(ratio))
        return None

    def _has_plain_sizes(self, node: fx.Node) -> bool:
        """Whether all sizes of a tensor are fixed, except that the first may be the batch. The entry compares only such sizes."""
        held = node.meta.get("val")
        return isinstance(held, torch.Tensor) and all(
            isinstance(size, int) or (axis == 0 and size.node.expr == self.region.batch)
            for axis, size in enumerate(held.shape)
        )

    def _names(self, output: fx.Node, nodes: set[fx.Node]) -> frozenset[str]:
        """The names in `region.outputs` of the given nodes."""
        returned: Any = output.args[0]
        return frozenset(name for node, name in zip(returned, self.region.outputs, strict=True) if node in nodes)


def _operator(node: fx.Node) -> fx.Node:
    """The node itself, or the operator whose result the node is a part of."""
    while node.target is operator.getitem and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return node
