"""Bags of equal lengths as gathers and sums. TensorRT converts `embedding_bag` itself to an engine that is ten times larger."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from recfx.ir.op_sets import EMBEDDING_BAGS
from recfx.ir.region import Region
from recfx.ops.descriptions import MEAN, SUM, Feature
from recfx.ops.lookup_aten import fixed_bags
from recfx.ops.to_aten import replace_node
from recfx.targets.region_sizes import expression_of

_aten = torch.ops.aten
_SUM, _MEAN = 0, 1
#: Arguments of `embedding_bag` by position.
_OFFSETS, _MODE, _LAST = 2, 4, 7


def refusal_of_bag(node: fx.Node) -> str:
    """Why an `embedding_bag` cannot be gathered and reduced; "" if it can."""
    if any(getattr(user.target, "__name__", "") != "getitem" or user.args[1] != 0 for user in node.users):
        return "results of a bag other than its sums"
    if _argument(node, _MODE, 0) not in (_SUM, _MEAN):
        return "the largest element of a bag runs on torch"
    if bag_length(node) is None:
        return "bags of different lengths need a sum over computed places, which TensorRT lacks"
    return ""


def bag_length(node: fx.Node) -> int | None:
    """The length of all bags if the offsets are 0, L, 2 L, ... up to the number of ids; None otherwise."""
    offsets: Any = node.args[_OFFSETS]
    if offsets.target is not _aten.arange.start_step or _argument(node, _LAST, False):
        return None
    start, end, step = (*offsets.args, 1)[:3]
    ids: Any = node.args[1]
    held = ids.meta["val"]
    last = end.meta["val"] if isinstance(end, fx.Node) else end
    whole = start == 0 and isinstance(step, int) and step > 0
    return step if whole and held.ndim == 1 and expression_of(last) == expression_of(held.shape[0]) else None


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
            pooling=MEAN if given.get("mode", 0) == _MEAN else SUM,
            padding=-1 if padding is None else int(padding) % int(table.shape[0]),
        )
        columns = ids.reshape(-1, length)
        scaled = None if factors is None else factors.reshape(-1, length)
        return fixed_bags(table, columns, scaled, f), None, None, None

    return run


def _argument(node: fx.Node, at: int, default: Any) -> Any:
    return node.args[at] if len(node.args) > at else default
