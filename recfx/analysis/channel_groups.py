"""Coupled channels: the elements of parameters and values that can only be removed together.

Each element of each axis of a parameter gets a label, which travels through the graph in one walk; an operator that reads two elements at
the same place ties their labels (`channel_labels`). The elements with one label are a channel: a neuron of an MLP is a row of one weight,
an element of its bias and of a batch norm, and a column of the next weight, at the place that a concatenation gives it. What is tied to an
input, an output or an operator that is not followed stays.

    found = channel_groups(program)
    for group in found.groups:
        group.channels            labels, each of which is one channel
        group.places              the axes of parameters that each of them has elements in
    found.kept(node, {channel})   the places along each axis of a value that remain

References: the coupling of parameters follows DepGraph (Fang et al., CVPR 2023), here on the graph and element by element.
"""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Collection, Iterable
from enum import Enum
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from recfx.analysis.axis_maps import is_pointwise, overloads
from recfx.analysis.batch_axis import held_by
from recfx.analysis.channel_axes import Axis, Fixed, fixed, size_of, vectors
from recfx.analysis.channel_elementwise import ELEMENTWISE, MAPPED, elementwise, mapped
from recfx.analysis.channel_labels import Labels, Vector
from recfx.analysis.channel_products import PRODUCTS, unknown
from recfx.analysis.channel_recurrent import RECURRENT_LAYERS
from recfx.analysis.channel_scatter import SCATTERS
from recfx.analysis.channel_views import VIEWS, item, permute, split
from recfx.analysis.channel_walk import Axes, Reduction, Rule, Walk
from recfx.ir.op_sets import PERMUTATIONS, SPLITS, TABLE_LOOKUPS
from recfx.ir.program import Program, get_state

_NOT_FOLLOWED = "channels are not followed through it"
_RANDOM = torch.Tag.nondeterministic_seeded

Mask = NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class Place:
    """An axis of a parameter or buffer.

    Attributes:
        name: The first name of the tensor in the graph.
        axis: The axis, from 0.
    """

    name: str
    axis: int


class Kind(Enum):
    """What the channels of a group are."""

    CHANNELS = "channels that a layer computes"
    COLUMNS = "columns of embedding tables"
    PARTS = "whole values, such as fields, pairs of fields, experts and heads"


@dataclasses.dataclass(frozen=True)
class Group:
    """Channels that have elements in the same axes of parameters, such as the neurons of one layer.

    Attributes:
        places: These axes.
        channels: The channels, in the order of their elements in the first axis.
        kind: What they are.
    """

    places: tuple[Place, ...]
    channels: tuple[int, ...]
    kind: Kind


class ChannelGroups:
    """The coupled channels of a program.

    Args:
        walk: The finished walk.
        reads: Name of a parameter or buffer -> its first read, in graph order, one name for each tensor.
        tables: Names of embedding tables.

    Attributes:
        groups: The groups whose channels may be removed, in graph order.
        reductions: The operators that combine elements of an axis with labels.
    """

    def __init__(self, walk: Walk, reads: dict[str, fx.Node], tables: Collection[str]) -> None:
        self._walk = walk
        self._reads = reads
        self.reductions: list[Reduction] = walk.reductions
        self._channels: dict[int, tuple[int, ...]] = {}
        self._known: dict[int, tuple[Vector, Vector, Vector]] = {}
        self._axes = {name: self.axes(read) for name, read in reads.items()}
        self.groups = self._groups(tables)

    @property
    def labels(self) -> Labels:
        """The labels of the walk."""
        return self._walk.labels

    def channels_of(self, label: int) -> tuple[int, ...]:
        """The channels whose removal removes an element with a label; none if the element stays."""
        if label not in self._channels:
            found = self.labels.channels(label)
            self._channels[label] = tuple(c for c in found if c not in self.labels.pins)
        return self._channels[label]

    def axes(self, node: fx.Node) -> Axes:
        """The axes of a node with one tensor as its result; without labels for other nodes."""
        found: Any = self._walk.found.get(node)
        if found is None or not isinstance(held_by(node), torch.Tensor):
            return []
        axes: Axes = found
        return axes

    def result_axes(self, node: fx.Node) -> list[Axes]:
        """The axes of each result of a node."""
        found: Any = self._walk.found.get(node)
        if found is None:
            return []
        return [found] if isinstance(held_by(node), torch.Tensor) else found

    def members(self, vector: Vector) -> tuple[Vector, Vector]:
        """The pairs (place, channel) of a vector of labels: the place is removed if one of its channels is."""
        if id(vector) not in self._known:
            pairs = [(i, c) for i, label in enumerate(vector.tolist()) for c in self.channels_of(label)]
            places, channels = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
            self._known[id(vector)] = (vector, places, channels)
        return self._known[id(vector)][1:]

    def kept(self, factor: Vector, removed: Collection[int]) -> Mask:
        """Which places of a factor remain without some channels."""
        places, channels = self.members(factor)
        mask = np.ones(len(factor), dtype=bool)
        mask[places[np.isin(channels, list(removed))]] = False
        return mask

    def kept_along(self, axis: Axis, removed: Collection[int], size: int) -> Mask | None:
        """Which places of an axis remain without some channels; None if all do.

        Args:
            axis: The axis.
            removed: The channels.
            size: The size of the axis, in case that a part of it is free.
        """
        parts = [None if isinstance(factor, Fixed) else self.kept(factor, removed) for factor in axis]
        if all(part is None or part.all() for part in parts):
            return None
        sizes = [size_of(factor) for factor in axis]
        free = size // math.prod(int(known) for known in sizes if known.is_Integer)
        mask = np.ones(1, dtype=bool)
        for part, known in zip(parts, sizes, strict=True):
            part = np.ones(int(known) if known.is_Integer else free, dtype=bool) if part is None else part
            mask = (mask[:, None] & part[None, :]).reshape(-1)
        return mask

    def vectors(self) -> list[Vector]:
        """All vectors of labels in axes of values and parameters, each once."""
        axes = (axis for node in self._walk.found for axes in self.result_axes(node) for axis in axes)
        return list({id(vector): vector for vector in vectors(axes)}.values())

    def state(self) -> Iterable[tuple[str, Axes]]:
        """(Name, axes) of each parameter and buffer."""
        return self._axes.items()

    def misses(self) -> dict[fx.Node, str]:
        """Operator -> why channels of parameters stay because of it."""
        labels = self.labels
        axes = [axis for name, own in self.state() if held_by(self._reads[name]).is_floating_point() for axis in own]
        held = {c for vector in vectors(axes) for label in vector.tolist() for c in labels.channels(label)}
        found: dict[fx.Node, str] = {}
        for pinned in self._walk.misses:
            if any(held.intersection(labels.channels(channel)) for channel in pinned.channels):
                found.setdefault(pinned.node, pinned.reason)
        return found

    def state_axis(self, place: Place) -> Axis:
        """The axis of a parameter or buffer."""
        return self._axes[place.name][place.axis]

    def _groups(self, tables: Collection[str]) -> list[Group]:
        places: dict[int, dict[Place, int]] = {}
        roles: dict[int, int] = {}
        stacked = {c for vector in self._walk.stacked for label in vector.tolist() for c in self.channels_of(label)}
        outer: set[int] = set()
        for name, axes in self._axes.items():
            if not held_by(self._reads[name]).is_floating_point():
                continue
            for d, axis in enumerate(axes):
                for label in (label for vector in vectors([axis]) for label in vector.tolist()):
                    channels = self.channels_of(label)
                    outer.update(channels[:-1] if channels and channels[-1] not in stacked else ())
                    for role, channel in enumerate(channels):
                        found = places.setdefault(channel, {})
                        found[Place(name, d)] = found.get(Place(name, d), 0) + 1
                        roles.setdefault(channel, role)
        groups: dict[Any, list[int]] = {}  # heads and their columns have elements in the same axes, in different roles
        for channel, found in places.items():
            groups.setdefault((tuple(found.items()), roles[channel]), []).append(channel)
        columns = {Place(name, 1) for name in tables}
        read = {Place(str(r.operand.target), r.axis) for r in self.reductions if r.operand.op == "get_attr"}

        parts = outer | stacked

        def kind(where: tuple[Place, ...], channels: list[int]) -> Kind:
            if columns.intersection(where):
                return Kind.COLUMNS
            return Kind.PARTS if read.issuperset(where) or channels[0] in parts else Kind.CHANNELS

        listed = [(tuple(place for place, _ in key[0]), channels) for key, channels in groups.items()]
        return [Group(where, tuple(channels), kind(where, channels)) for where, channels in listed]


def channel_groups(program: Program) -> ChannelGroups:
    """Finds the coupled channels of a program. Pass it to `ctx.analysis`.

    Args:
        program: A functional program with recorded values. Operators of the dialect are not followed.
    """
    walk = Walk()
    reads: dict[str, fx.Node] = {}
    by_id: dict[int, str] = {}
    tables: dict[str, None] = {}
    looked_up = {id(get_state(program.module, str(table.target))) for table in _tables(program)}
    for node in program.graph.nodes:
        if node.op == "get_attr" and node.users:
            name, tensor = str(node.target), get_state(program.module, str(node.target))
            if isinstance(held_by(node), torch.Tensor):
                walk.found[node] = _of_state(walk, node, tensor, keep_rows=id(tensor) in looked_up)
                first = by_id.setdefault(id(tensor), name)
                reads.setdefault(first, node)
        elif node.op == "call_function":
            found = _rule(node)(walk, node)
            if found is not None:
                walk.found[node] = found
            if (table := _table(node)) is not None:
                tables[by_id[id(get_state(program.module, str(table.target)))]] = None
        elif node.op == "output":
            for returned in node.all_input_nodes:
                for vector in vectors(walk.axes(returned) or []):
                    walk.labels.pin(vector)
        elif (found := _of_input(node)) is not None:
            walk.found[node] = found
    return ChannelGroups(walk, reads, tables)


def _tables(program: Program) -> list[fx.Node]:
    return [table for node in program.graph.nodes if (table := _table(node)) is not None]


def _table(node: fx.Node) -> fx.Node | None:
    """The read of a table by a lookup; None for other nodes."""
    found = node.args[0] if node.op == "call_function" and node.target in _LOOKUPS else None
    return found if isinstance(found, fx.Node) and found.op == "get_attr" else None


def _of_state(walk: Walk, node: fx.Node, tensor: torch.Tensor, *, keep_rows: bool) -> Axes:
    """The axes of a parameter or buffer. Rows of tables, of which there may be millions, stay, and need no labels."""
    if id(tensor) not in walk.state:
        shape = held_by(node).shape
        walk.state[id(tensor)] = [
            fixed(size) if keep_rows and d == 0 else walk.fresh(size) for d, size in enumerate(shape)
        ]
    return walk.state[id(tensor)]


def _of_input(node: fx.Node) -> Axes | None:
    held = held_by(node)
    return [fixed(size) for size in held.shape] if isinstance(held, torch.Tensor) else None


def _not_followed(walk: Walk, node: fx.Node) -> Any:
    return unknown(walk, node, _NOT_FOLLOWED)


def _rule(node: fx.Node) -> Rule:
    target: Any = node.target
    if target in _RULES:
        return _RULES[target]
    if is_pointwise(node) and _RANDOM not in target.tags:
        return elementwise
    return _not_followed


_LOOKUPS = frozenset(TABLE_LOOKUPS)
_RULES: dict[Any, Rule] = {
    **dict.fromkeys(overloads(MAPPED), mapped),
    **{
        target: rule
        for table in (VIEWS, ELEMENTWISE, PRODUCTS, RECURRENT_LAYERS, SCATTERS)
        for names, rule in table.items()
        for target in overloads(names)
    },
    **dict.fromkeys(PERMUTATIONS, permute),
    **dict.fromkeys(SPLITS, split),
    operator.getitem: item,
}
