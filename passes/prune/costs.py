"""The multiply-adds of one row and the bytes of a program, with all its channels or without some."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import sympy
from torch import fx

from recfx.analysis.channel_axes import Axis
from recfx.analysis.channel_groups import ChannelGroups
from recfx.analysis.channel_walk import Read
from recfx.ir.op_sets import RECURRENT
from recfx.ir.program import Program, get_state
from recfx.passes.prune.baked_sizes import Remaining

Cost = Callable[[Remaining], float]


def multiply_adds(program: Program, found: ChannelGroups) -> Cost:
    """The multiply-adds of products for one row; free sizes count as one.

    A product has one for each element of its result and each place of the axis that it sums over; a recurrent layer has one for each
    element of its matrices and each step.
    """
    products: dict[fx.Node, list[Any]] = {}
    for read in found.reductions:
        if read.kind is Read.SUM and len(read.node.all_input_nodes) > 1 and read.node.target not in RECURRENT:
            axis = found.axes(read.operand)[read.axis]
            summed = products.setdefault(read.node, [])
            if len(summed) < 1:
                summed.append(axis)
    layers = [node for node in program.graph.nodes if node.target in RECURRENT]

    def cost(remaining: Remaining) -> float:
        total = 0.0
        for node, summed in products.items():
            total += _count(remaining, [axis for axes in found.result_axes(node)[:1] for axis in axes] + summed)
        for node in layers:
            steps = _count(remaining, found.axes(node.args[0])[:-1])
            matrices = [found.axes(weight) for weight in node.args[2]]
            total += steps * sum(_count(remaining, axes) for axes in matrices if len(axes) == 2)
        return total

    return cost


def _count(remaining: Remaining, axes: list[Axis]) -> float:
    sizes = [sympy.sympify(remaining.count(axis)) for axis in axes]
    return float(math.prod(int(size.subs(dict.fromkeys(size.free_symbols, 1))) for size in sizes))


def state_bytes(program: Program, found: ChannelGroups) -> Cost:
    """The bytes of parameters and buffers."""
    widths = {name: get_state(program.module, name).element_size() for name, _ in found.state()}

    def cost(remaining: Remaining) -> float:
        return sum(float(widths[name]) * _count(remaining, axes) for name, axes in found.state())

    return cost
