"""Types of numbers that OpenVINO computes as torch does."""

from __future__ import annotations

import pytest
import torch
from torch import fx

from recfx.targets.openvino.number_types import refusal_of_types
from recfx.targets.openvino.rules.registry import Rule


def _node(
    result: torch.dtype, *operands: torch.dtype, device: str = "cpu", state: torch.dtype | None = None
) -> fx.Node:
    graph, made = fx.Graph(), []
    for number, dtype in enumerate(operands):
        made.append(graph.placeholder(f"x{number}"))
        made[-1].meta["val"] = torch.zeros(2, dtype=dtype)
    if state is not None:
        made.append(graph.get_attr("w"))
        made[-1].meta["val"] = torch.zeros(2, dtype=state)
    node = graph.call_function(torch.ops.aten.add.Tensor, tuple(made))
    node.meta["val"] = torch.zeros(2, dtype=result, device=device)
    return node


F32, I64, I32 = torch.float32, torch.int64, torch.int32


@pytest.mark.parametrize(
    ("node", "integers", "formats", "reason"),
    [
        (_node(F32, F32, F32), False, False, ""),
        (_node(torch.bool, F32, I64), False, False, ""),
        (_node(I64, I64), False, False, "integers with 32 bits"),
        (_node(I32, F32), False, False, "integers with 32 bits"),
        (_node(I64, I64), True, False, ""),
        (_node(torch.float64, F32), False, False, "would compute float64 with another precision"),
        (_node(F32, F32, torch.float16), False, False, "would compute float16 with another precision"),
        (_node(F32, F32, device="meta"), False, False, ""),
        (_node(F32, F32, state=torch.int8), False, False, "would compute int8 with another precision"),
        (_node(F32, F32, state=torch.int8), False, True, ""),
        (_node(F32, torch.int8, state=torch.int8), False, True, "would compute int8 with another precision"),
    ],
)
def test_the_types_of_an_operator(node: fx.Node, integers: bool, formats: bool, reason: str) -> None:
    found = refusal_of_types(node, Rule(lambda *_: None, integers=integers, formats=formats))  # type: ignore[arg-type]
    assert (found == "") == (reason == "")
    assert reason in found
