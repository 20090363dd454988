"""Lookups in tables. OpenVINO reads beyond a table for an id outside it, so the call checks the ids first."""

from __future__ import annotations

from typing import Any

import torch

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
