"""Channels that contribute nothing, or a constant, to what reads them."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, fx

from recfx.analysis.channel_axes import vectors
from recfx.analysis.channel_groups import ChannelGroups, Group
from recfx.analysis.channel_walk import Read, Reduction
from recfx.passes._match import argument
from recfx.passes.prune.channel_ranges import Range, zero_slices
from recfx.pipeline import PassContext

_aten = torch.ops.aten


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a program loses with one channel.

    Attributes:
        refused: Why the channel must stay; None if it may be removed.
        at: The operator that the reason concerns.
        folds: Linear -> the places of its input whose constant goes into its bias.
    """

    refused: str | None = None
    at: fx.Node | None = None
    folds: tuple[tuple[fx.Node, int], ...] = ()


class DeadChannels:
    """Decides which channels are dead.

    Args:
        ctx: The pass context.
        found: The coupled channels.
        ranges: The ranges of values.
    """

    def __init__(self, ctx: PassContext, found: ChannelGroups, ranges: dict[fx.Node, Range]) -> None:
        self._ctx = ctx
        self._ranges = ranges
        self._zero: dict[tuple[str, int], Tensor] = {}
        self._reads: dict[int, dict[fx.Node, list[tuple[Reduction, list[int]]]]] = {}
        for reduction in found.reductions:
            axis = found.axes(reduction.operand)[reduction.axis]
            places: dict[int, list[int]] = {}
            for vector in vectors([axis]):
                for place, channel in zip(*(part.tolist() for part in found.members(vector)), strict=True):
                    places.setdefault(channel, []).extend([place] if len(axis) == 1 else [])
            for channel, own in places.items():
                self._reads.setdefault(channel, {}).setdefault(reduction.node, []).append((reduction, own))

    def verdict(self, channel: int) -> Verdict | None:
        """Whether a channel may be removed; None if nothing about it is constant."""
        folds: list[tuple[fx.Node, int]] = []
        refused: tuple[str, fx.Node] | None = None
        constant = False
        for node, reads in self._reads.get(channel, {}).items():
            reason = self._read(node, reads, folds)
            constant = constant or reason is None
            if reason is not None:
                refused = refused or (reason, node)
        if refused is None:
            return Verdict(folds=tuple(folds))
        return Verdict(*refused) if constant else None

    def _read(
        self, node: fx.Node, reads: list[tuple[Reduction, list[int]]], folds: list[tuple[fx.Node, int]]
    ) -> str | None:
        """Why an operator needs a channel; None if it does not."""
        if any(reduction.kind is Read.COUNT for reduction, _ in reads):
            return "the number of channels counts in what reads it"
        operands = [reduction.operand for reduction, _ in reads]
        if len(set(operands)) < len(operands) or any(not places for _, places in reads):
            return "it is read along several axes"
        if any(self._is_zero(reduction, places) for reduction, places in reads):
            return None
        if node.target is _aten.linear.default:
            source: Any = node.args[0]
            known = self._ranges.get(source)
            places = next((own for reduction, own in reads if reduction.operand is source), [])
            bias = argument(node, 2, "bias")
            stored = all(self._ctx.tensor(read) is not None for read in (node.args[1], bias) if read is not None)
            if known is not None and stored and places and bool(known.constant[places].all()):
                folds += [(node, place) for place in places]
                return None
        return (
            "it is not constant there" if node.target is _aten.linear.default else "its constant cannot be folded there"
        )

    def _is_zero(self, reduction: Reduction, places: list[int]) -> bool:
        operand = reduction.operand
        if operand.op == "get_attr":
            return bool(self._zero_places(operand, reduction.axis)[places].all())
        known = self._ranges.get(operand)
        if known is None or reduction.axis != operand.meta["val"].ndim - 1:
            return False
        return bool(((known.low == 0) & (known.high == 0))[places].all())

    def _zero_places(self, read: fx.Node, axis: int) -> Tensor:
        key = str(read.target), axis
        if key not in self._zero:
            self._zero[key] = zero_slices(self._ctx.stored(read), axis)
        return self._zero[key]


def constant_of(ranges: dict[fx.Node, Range], linear: fx.Node, places: list[int]) -> Tensor:
    """The values of constant places of a linear's input, float64."""
    source: Any = linear.args[0]
    return ranges[source].low[places]


def first_use(ctx: PassContext, group: Group) -> fx.Node:
    """The operator that a rewrite of a group is recorded at: the first that reads the group's first parameter."""
    names = {str(node.target): node for node in reversed(list(ctx.graph.find_nodes(op="get_attr"))) if node.users}
    users: list[fx.Node] = sorted(names[group.places[0].name].users)
    return users[0]
