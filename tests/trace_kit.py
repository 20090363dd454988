"""Captures a model with and without the quick trace, and describes both programs node by node."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import fx, nn

from recfx.capture import capture, export_ladder, quick_trace
from recfx.capture.quick_trace import QuickTrace
from recfx.ir.program import Program

Described = tuple[Any, ...]


def described(program: Program, *, numbers: bool = True) -> list[Described]:
    """Name, operator, arguments, sizes, strides, source lines and module of every node.

    Args:
        program: The program.
        numbers: Whether names have the numbers of the trace; otherwise nodes are numbered in the order of the graph. Arithmetic on sizes
            that no operator reads takes numbers in a trace, too, and the quick trace does less of it.
    """
    names = {node: node.name if numbers else _numbered(node.name, i) for i, node in enumerate(program.graph.nodes)}
    return [
        (
            *(names[node], node.op, str(node.target)),
            *map(str, fx.map_arg((node.args, node.kwargs), lambda n: names[n])),
            *_value(node.meta.get("val")),
            *(node.meta.get("stack_trace"), str(node.meta.get("nn_module_stack"))),
        )
        for node in program.graph.nodes
    ]


def _numbered(name: str, place: int) -> str:
    """The name of a node with another number."""
    return f"{re.sub(r'_[0-9]+$', '', name)}_{place}"


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
