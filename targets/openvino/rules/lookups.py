"""Lookups in tables. OpenVINO reads beyond a table for an id outside it, so the call checks the ids first."""

from __future__ import annotations

from typing import Any

import torch

from recfx.ir.op_sets import EMBEDDING_BAGS
from recfx.targets.equal_bags import MEAN_OF_BAG, bag_length, refusal_of_bag
from recfx.targets.openvino.rules.registry import Unsupported, rule

_aten = torch.ops.aten


@rule(_aten.embedding.default)
def _embedding(
    b: Any, weight: Any, indices: Any, padding_idx: int = -1, scale_grad_by_freq: bool = False, sparse: bool = False
) -> Any:
    rows = b.size_of(b.node.args[0], 0)
    if not isinstance(rows, int) or b.node.args[0].op != "get_attr":
        raise Unsupported("a table that is computed")
    b.check_ids(b.node.args[1], rows)
    return b.op.gather(weight, indices, b.number(0, torch.int64))


@rule(*EMBEDDING_BAGS, integers=True)
def _embedding_bag(
    b: Any,
    weight: Any,
    indices: Any,
    offsets: Any,
    scale_grad_by_freq: bool = False,
    mode: int = 0,
    sparse: bool = False,
    per_sample_weights: Any = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Any:
    """Bags of one length: rows are gathered and summed. Padding adds zero, whatever its row holds."""
    length = bag_length(b.node)
    if length is None or refusal_of_bag(b.node):
        raise Unsupported(refusal_of_bag(b.node))
    rows = b.size_of(b.node.args[0], 0)
    if not isinstance(rows, int) or b.node.args[0].op != "get_attr":
        raise Unsupported("a table that is computed")
    b.check_ids(b.node.args[1], rows)
    columns = b.integers([-1, length])
    ids = b.op.reshape(indices, columns, False)
    found = b.op.gather(weight, ids, b.number(0, torch.int64))
    last = b.integers([-1])
    if per_sample_weights is not None:
        found = b.op.multiply(found, b.op.unsqueeze(b.op.reshape(per_sample_weights, columns, False), last))
    counted = None
    if padding_idx is not None:
        counted = b.op.not_equal(ids, b.number(padding_idx % rows, b.dtype_of(b.node.args[1])))
        found = b.op.select(b.op.unsqueeze(counted, last), found, b.number(0.0))
    total = b.op.reduce_sum(found, b.integers([1]), False)
    if mode == MEAN_OF_BAG:
        count = b.number(float(length))
        if counted is not None:
            each = b.cast(counted.output(0), torch.float32)
            count = b.op.maximum(b.op.reduce_sum(each, b.integers([1]), True), b.number(1.0))
        total = b.op.divide(total, count)
    return [total, None, None, None]
