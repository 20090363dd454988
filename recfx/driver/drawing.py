"""What the picture of a placed program shows: blocks of operators of one module and region, their times, and the tensors between."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

from torch import fx

from recfx.cost.arithmetic import arithmetic_of_nodes
from recfx.driver.placed import Placed
from recfx.driver.placement_report import RegionReport
from recfx.ir.provenance import module_path
from recfx.ir.region import joins_any

#: Modules are shown by shorter paths until there are at most this many blocks.
_MOST_BLOCKS = 60
#: The cost of a byte in multiply-adds, where the time of a region is divided among its operators.
_BYTE = 4.0


@dataclasses.dataclass(frozen=True)
class Block:
    """Operators of one module in one region.

    Attributes:
        cluster: The top-level module, or "" for operators outside of modules.
        path: The path of the module, perhaps shortened.
        region: The index of the region.
        backend: Its backend.
        operators: Name of an operator -> how often it occurs.
        share: The share of the time of the call.
        seconds: The time of the block; None if the regions were neither measured nor predicted.
        level: How many blocks lie before it on the longest path.
    """

    cluster: str
    path: str
    region: int
    backend: str
    operators: dict[str, int]
    share: float
    seconds: float | None
    level: int


@dataclasses.dataclass(frozen=True)
class Drawing:
    """The content of the picture.

    Attributes:
        blocks: The blocks in the order of the run.
        edges: Pairs of blocks of which the second reads a tensor of the first.
    """

    blocks: tuple[Block, ...]
    edges: tuple[tuple[int, int], ...]


def drawing(placed: Placed, regions: Sequence[RegionReport], rows: int) -> Drawing:
    """The picture of a lowered program.

    Args:
        placed: The lowered program.
        regions: Its regions with their times; may be empty.
        rows: The batch size at which operators of a region are weighed against each other.
    """
    calls = [node for node in placed.program.graph.nodes if node.op == "call_function" and not joins_any(node)]
    region_of = {name: index for index in range(len(placed.regions)) for name in placed.split.members(index)}
    depth = max((module_path(node).count(".") + 1 for node in calls), default=1)
    groups = _groups(calls, region_of, depth)
    while len(groups) > _MOST_BLOCKS and depth > 1:
        depth -= 1
        groups = _groups(calls, region_of, depth)
    block_of = {node: index for index, nodes in enumerate(groups.values()) for node in nodes}
    edges = _edges(placed, block_of)
    levels = [0] * len(groups)
    for source, reader in sorted(edges):
        if source < reader:
            levels[reader] = max(levels[reader], levels[source] + 1)
    shares, seconds = _times(placed, list(groups.values()), [key[1] for key in groups], regions, rows)
    blocks = tuple(
        Block(
            path.partition(".")[0],
            path,
            region,
            placed.backends[region],
            dict(Counter(str(node.target) for node in nodes).most_common()),
            shares[index],
            seconds[index],
            levels[index],
        )
        for index, ((path, region), nodes) in enumerate(groups.items())
    )
    return Drawing(blocks, tuple(sorted(edges)))


def _groups(calls: Sequence[fx.Node], region_of: dict[str, int], depth: int) -> dict[tuple[str, int], list[fx.Node]]:
    """(module path, region) -> operators, for paths of a depth."""
    found: dict[tuple[str, int], list[fx.Node]] = {}
    for node in calls:
        path = ".".join(module_path(node).split(".")[:depth])
        found.setdefault((path, region_of[node.name]), []).append(node)
    return found


def _edges(placed: Placed, block_of: dict[fx.Node, int]) -> set[tuple[int, int]]:
    """Pairs of blocks with a tensor between them, also through sizes and parts of tuples."""
    origin: dict[fx.Node, set[int]] = {}
    found = set[tuple[int, int]]()
    for node in placed.program.graph.nodes:
        sources = set[int]().union(*(origin.get(source, set()) for source in node.all_input_nodes))
        own = block_of.get(node)
        if own is None:
            origin[node] = sources
        else:
            found |= {(source, own) for source in sources if source != own}
            origin[node] = {own}
    return found


def _times(
    placed: Placed,
    groups: Sequence[Sequence[fx.Node]],
    places: Sequence[int],
    regions: Sequence[RegionReport],
    rows: int,
) -> tuple[list[float], list[float | None]]:
    """The shares and seconds of blocks. The time of a region is divided by the arithmetic of its operators."""
    work = arithmetic_of_nodes(placed.program, max(rows, 1))
    weights = [sum(1.0 + work[n].multiply_adds + _BYTE * work[n].bytes for n in nodes if n in work) for nodes in groups]
    of_region = [
        sum(w for w, place in zip(weights, places, strict=True) if place == at) for at in range(len(placed.regions))
    ]
    known = [region.measured if region.measured is not None else region.predicted for region in regions]
    if len(known) != len(placed.regions) or any(seconds is None for seconds in known):
        total = sum(weights) or 1.0
        return [weight / total for weight in weights], [None] * len(groups)
    seconds = [(known[place] or 0.0) * weight / of_region[place] for weight, place in zip(weights, places, strict=True)]
    total = sum(seconds) or 1.0
    return [each / total for each in seconds], [*seconds]
