"""Captures a model with and without the quick trace, and describes both programs node by node."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn

from recfx.capture import capture, export_ladder, quick_trace
from recfx.capture.quick_trace import QuickTrace
from recfx.ir.program import Program

Described = tuple[Any, ...]


def described(program: Program) -> list[Described]:
    """Name, operator, arguments, sizes, strides, source lines and module of every node."""
    return [
        (
            *(node.name, node.op, str(node.target), str(node.args), str(node.kwargs)),
            *_value(node.meta.get("val")),
            *(node.meta.get("stack_trace"), str(node.meta.get("nn_module_stack"))),
        )
        for node in program.graph.nodes
    ]


def both_ways(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
) -> tuple[Program, Program, list[QuickTrace]]:
    """The program of a quick capture, that of a plain one, and the traces of the quick capture."""
    traces: list[QuickTrace] = []
    own = export_ladder.quick_trace

    @contextmanager
    def kept(**options: Any) -> Any:
        with own(**options) as trace:
            traces.append(trace)
            yield trace

    with monkeypatch.context() as patch:
        patch.setattr(export_ladder, "quick_trace", kept)
        quick = capture(model, args, kwargs)
    with monkeypatch.context() as patch:
        patch.setattr(quick_trace, "records_quickly", lambda: False)
        plain = capture(model, args, kwargs)
    return quick, plain, traces


def recorded(traces: list[QuickTrace]) -> int:
    """How many operators were recorded without running their fake kernels in the trace that was kept."""
    nodes = traces[-1].nodes
    return nodes.recorded if nodes is not None else 0


def _value(value: Any) -> tuple[str, ...]:
    if isinstance(value, torch.Tensor):
        return str(value.dtype), str(tuple(value.shape)), str(tuple(value.stride())), str(value.storage_offset())
    return (str(value),)
