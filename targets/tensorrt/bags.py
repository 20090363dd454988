"""Bags of equal lengths as gathers and sums. TensorRT converts `embedding_bag` itself to an engine that is ten times larger."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, fx

from recfx.ir.op_sets import EMBEDDING_BAGS
from recfx.ir.region import Region
from recfx.ops.descriptions import MEAN, SUM, Feature
from recfx.ops.lookup_aten import fixed_bags
from recfx.ops.to_aten import replace_node
from recfx.targets.equal_bags import MEAN_OF_BAG, bag_length


def gather_bags(region: Region) -> None:
    """Replaces every bag of a region by a gather and a sum, in place. All have bags of one length."""
    for node in [node for node in region.graph.nodes if node.target in EMBEDDING_BAGS]:
        replace_node(region.module, node, gathered(node))


def gathered(node: fx.Node) -> Callable[..., Any]:
    """A function of the arguments of an `embedding_bag` with bags of one length, which gathers and reduces."""
    length = bag_length(node)
    if length is None:
        raise ValueError(f"the bags of {node.name} have different lengths")

    def run(table: Tensor, ids: Tensor, *rest: Any, **keywords: Any) -> tuple[Tensor, None, None, None]:
        names = ("offsets", "scale_grad_by_freq", "mode", "sparse", "per_sample_weights", "include_last_offset")
        given = dict(zip((*names, "padding_idx"), rest, strict=False)) | keywords
        factors, padding = given.get("per_sample_weights"), given.get("padding_idx")
        f = Feature(
            *(0, 0, int(table.shape[1]), 0),
            length=length,
            pooling=MEAN if given.get("mode", 0) == MEAN_OF_BAG else SUM,
            padding=-1 if padding is None else int(padding) % int(table.shape[0]),
        )
        columns = ids.reshape(-1, length)
        scaled = None if factors is None else factors.reshape(-1, length)
        return fixed_bags(table, columns, scaled, f), None, None, None

    return run
