"""Grouped lookups in graphs that torch runs: they are called without the dispatcher, and their features are decoded once."""

from __future__ import annotations

from recfx.ir.region import Region
from recfx.ops import lookup


def with_plain_lookups(region: Region) -> Region:
    """The region with every grouped lookup as a function of its tensors; the region itself where it has none."""
    if not any(node.target is lookup.grouped_lookup for node in region.graph.nodes):
        return region
    changed = region.clone()
    for node in changed.graph.nodes:
        if node.target is lookup.grouped_lookup:
            names = ["tables", "ids", "offsets", "weights", "dense", "features", "copies", "width"]
            given = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
            node.args, node.kwargs = tuple(given[name] for name in names[:5]), {}
            node.target = lookup.plain_lookup(given["features"], given["copies"])
    return changed


__all__ = ["with_plain_lookups"]
