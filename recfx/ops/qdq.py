"""Q/DQ form: int8 layers as float32 products between the operators of `torch.ops.quantized_decomposed` that round to int8 and back.

    x W^T + b   ->   linear(dequantize(quantize(x)), dequantize(quantize(W)), b)

The backends of torch's quantised models (inductor, OpenVINO, ONNX Runtime) recognise this pattern and multiply integers. The input has one
scale for all rows, and the weight one for each output channel. The weight stands in the graph in float32, with the values of its codes:
OpenVINO reads the scales of a weight from the operator that quantises it. The bias is a sum of its own, because ONNX Runtime multiplies
integers for a product without bias only.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.ao.quantization.fx._decomposed  # defines torch.ops.quantized_decomposed
from torch import Tensor, fx
from torch.nn import functional

from recfx.ir.program import Program
from recfx.ops import cin, cross, mlp
from recfx.ops.to_aten import decompose, replace_node

_LEVELS = 127

#: Operator -> its reference, which takes the function that multiplies.
REFERENCES: dict[Any, Callable[..., Tensor]] = {
    mlp.mlp: mlp.reference,
    cin.cin: cin.reference,
    cross.cross: cross.reference,
}


def product(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    scale: Tensor | None = None,
    input_scale: float = 0.0,
    factor: Tensor | None = None,
) -> Tensor:
    """`recfx.ops.mlp.product` in Q/DQ form, for int8 weights whose input has a calibrated scale."""
    if weight.dtype is not torch.int8:
        return mlp.product(x, weight, bias)
    assert scale is not None
    given = x if factor is None else x * factor
    q: Any = torch.ops.quantized_decomposed
    limits = (input_scale, 0, -_LEVELS, _LEVELS, torch.int8)
    rounded = q.dequantize_per_tensor(q.quantize_per_tensor(given, *limits), *limits)
    zeros = torch.zeros_like(scale, dtype=torch.int64)
    channels = (scale, zeros, 0, -_LEVELS, _LEVELS, torch.int8)
    codes = q.quantize_per_channel(weight.float() * scale.unsqueeze(1), *channels)
    made = functional.linear(rounded, q.dequantize_per_channel(codes, *channels))
    return made if bias is None else made + bias


def with_qdq(program: Program) -> Program:
    """A program of ATen's operators, with the layers of int8 weights in Q/DQ form.

    Args:
        program: A program whose int8 layers have calibrated scales. It stays as it is.
    """
    made = program.clone()
    for node in list(made.graph.nodes):
        if node.op == "call_function" and node.target in REFERENCES and _has_int8(node):
            replace_node(made.module, node, partial(REFERENCES[node.target], multiply=product))
    return decompose(made)


def _has_int8(node: fx.Node) -> bool:
    return any(read.meta["val"].dtype is torch.int8 for read in node.all_input_nodes)
