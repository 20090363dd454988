"""Layers of compressed interaction networks without activation, and the linears that read sums of their maps."""

from __future__ import annotations

import dataclasses
import operator
from itertools import accumulate
from typing import Any

import torch
from torch import fx

from recfx.ir.access import tensor_of
from recfx.ir.op_sets import SPLITS
from recfx.ops.cin import cin, triangle_positions
from recfx.ops.mlp import decode
from recfx.passes._match import argument, only_user, value
from recfx.pipeline import PassContext

_aten = torch.ops.aten


@dataclasses.dataclass(frozen=True)
class LinearCin:
    """A layer without activation, with float32 weights.

    Attributes:
        node: The operator.
        x0: The fields.
        x: The maps.
        weight: [O, H, M]; zero where m < h in a triangle.
        bias: [O], or None.
        triangle: Whether the operator has products with m >= h only.
        name: The name of the weight.
    """

    node: fx.Node
    x0: fx.Node
    x: fx.Node
    weight: torch.Tensor
    bias: torch.Tensor | None
    triangle: bool
    name: str

    @property
    def outputs(self) -> int:
        """The number of outputs."""
        return int(self.weight.shape[0])

    @property
    def bias64(self) -> torch.Tensor:
        """The bias in float64, zeros without one."""
        return torch.zeros(self.outputs, dtype=torch.float64) if self.bias is None else self.bias.double()


def linear_cin(ctx: PassContext, node: fx.Node) -> LinearCin | None:
    """The layer behind a node or behind the part of its maps that the node holds; None for a layer with an activation."""
    place = layer_behind(node)
    if place is None:
        return None
    arguments: Any = place[0].args
    x0, x, params, ints, numbers, triangle = arguments
    (layer,) = decode(ints, numbers)
    weight = ctx.tensor(params[layer.weight])
    bias = ctx.tensor(params[layer.bias]) if layer.bias >= 0 else None
    if layer.activation != "none" or weight is None or weight.dtype is not torch.float32:
        return None
    if layer.bias >= 0 and bias is None:
        return None
    maps, fields = int(tensor_of(x).shape[1]), int(tensor_of(x0).shape[1])
    cube = weight.detach()
    if triangle:
        cube = cube.new_zeros(len(cube), maps * fields)
        cube[:, list(triangle_positions(fields))] = weight.detach()
    cube = cube.reshape(-1, maps, fields)
    name = str(params[layer.weight].target).replace(".", "_")
    return LinearCin(place[0], x0, x, cube, None if bias is None else bias.detach(), bool(triangle), name)


def layer_behind(node: Any) -> tuple[fx.Node, int, int] | None:
    """(layer, start, stop): the layer whose maps from `start` to `stop` a node holds; None for other nodes."""
    held = value(node)
    if held is None or held.ndim != 3 or not isinstance(held.shape[1], int):
        return None
    if node.target is cin:
        return node, 0, int(held.shape[1])
    start = None
    if (
        node.target is _aten.slice.Tensor
        and argument(node, 1, "dim", 0) in (1, -2)
        and argument(node, 4, "step", 1) == 1
    ):
        below = layer_behind(node.args[0])
        first: Any = argument(node, 2, "start") or 0
        start = first % int(tensor_of(node.args[0]).shape[1]) if isinstance(first, int) else None
    elif node.target is operator.getitem and node.args[0].target in SPLITS:
        split = node.args[0]
        below = layer_behind(split.args[0])
        parts = [part.shape for part in split.meta["val"]]
        if all(len(part) == 3 for part in parts) and argument(split, 2, "dim", 0) in (1, -2):
            start = [0, *accumulate(int(part[1]) for part in parts)][node.args[1]]
    else:
        return None
    if below is None or start is None:
        return None
    return below[0], below[1] + start, below[1] + start + int(held.shape[1])


def readers(layer: fx.Node) -> set[fx.Node]:
    """The nodes that read the maps of a layer, directly or in parts."""
    found: set[fx.Node] = set()
    pending = list(layer.users)
    while pending:
        user = pending.pop()
        split = user.target in SPLITS and all(layer_behind(part) is not None for part in user.users)
        if split or (layer_behind(user) is not None and user.target is not cin):
            pending += list(user.users)
        else:
            found.add(user)
    return found


@dataclasses.dataclass(frozen=True)
class Pooled:
    """A part of a linear's input.

    Attributes:
        node: The part [B, width]; None if it exists only inside a sum of several.
        maps: The maps [B, width, D] whose sum it is, or None.
        reader: The operator that reads the maps.
        width: Its columns.
    """

    node: fx.Node | None
    maps: fx.Node | None
    reader: fx.Node | None
    width: int

    def emit(self, ctx: PassContext) -> fx.Node:
        """The part as a tensor of its own."""
        return self.node if self.node is not None else ctx.call(_aten.sum.dim_IntList, self.maps, [2])


def pooled_parts(linear: fx.Node) -> list[Pooled] | None:
    """The parts of a linear's input, sums over the columns of maps and others; None for an input of another form."""
    source: Any = linear.args[0]
    held = value(source)
    if held is None or held.ndim != 2 or not isinstance(held.shape[1], int):
        return None
    return _parts_of(source, linear)


def _parts_of(node: fx.Node, reader: fx.Node) -> list[Pooled]:
    """The parts of a tensor [B, n] that one operator reads. A tensor with other readers is one part."""
    if only_user(node) is reader:
        if node.target is _aten.cat.default and argument(node, 1, "dim", 0) in (1, -1):
            parts: Any = node.args[0]
            return [found for part in parts for found in _parts_of(part, node)]
        summed = _summed(node)
        if summed is not None:
            return summed
    return [Pooled(node, None, None, int(tensor_of(node).shape[1]))]


def _summed(node: fx.Node) -> list[Pooled] | None:
    """The parts of a sum over the columns of maps, or of maps joined; None for another node."""
    if node.target is not _aten.sum.dim_IntList or node.kwargs.get("dtype"):
        return None
    maps: Any = node.args[0]
    dims: Any = node.args[1]
    held = value(maps)
    if held is None or held.ndim != 3 or [d % 3 for d in dims] != [2]:
        return None
    if maps.target is _aten.cat.default and argument(maps, 1, "dim", 0) in (1, -2) and only_user(maps) is node:
        return [Pooled(None, part, maps, int(tensor_of(part).shape[1])) for part in maps.args[0]]
    return [Pooled(node, maps, node, int(held.shape[1]))]
