"""The types that the backend computes with.

OpenVINO's CPU plugin computes 64-bit integers with 32 bits and float64 with float32. Float64 is therefore refused. Integers are compared,
moved and used as ids, which gives the same with 32 bits if all values fit; the call checks this for the region's inputs.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.utils import _pytree as pytree

from recfx.targets.openvino.package import openvino
from recfx.targets.openvino.rules.registry import Rule

#: dtype -> the same type in NumPy.
TYPES: dict[torch.dtype, Any] = {
    torch.float32: np.float32,
    torch.int64: np.int64,
    torch.int32: np.int32,
    torch.bool: np.bool_,
}

#: The types of weights in the formats of the dialect.
FORMATS = (torch.bfloat16, torch.int8)

#: dtype -> the same type in NumPy, with those of weights that NumPy has.
NUMPY_TYPES: dict[torch.dtype, Any] = {**TYPES, torch.int8: np.int8}

#: The types of integers.
INTEGERS = (torch.int64, torch.int32)


@functools.cache
def openvino_types() -> dict[torch.dtype, Any]:
    """dtype -> OpenVINO's type."""
    kinds = openvino().Type
    return {torch.float32: kinds.f32, torch.int64: kinds.i64, torch.int32: kinds.i32, torch.bool: kinds.boolean}


def refusal_of_types(node: fx.Node, rule: Rule) -> str:
    """Why the types of an operator's operands and results cannot be computed; "" if they can."""
    results = [v for v in pytree.tree_leaves(node.meta.get("val")) if isinstance(v, torch.Tensor)]
    read = [n for n in node.all_input_nodes if not (rule.formats and n.op == "get_attr")]
    operands = [n.meta.get("val") for n in read]
    given = [v for v in pytree.tree_leaves(operands) if isinstance(v, torch.Tensor)]
    for tensor in (*results, *given):
        if tensor.dtype not in TYPES:
            return f"OpenVINO would compute {_name(tensor.dtype)} with another precision"
        if tensor.device.type not in ("cpu", "meta"):
            return f"a tensor lies on {tensor.device}"
    if not rule.integers and any(tensor.dtype in INTEGERS for tensor in results):
        return "OpenVINO computes integers with 32 bits"
    return ""


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
