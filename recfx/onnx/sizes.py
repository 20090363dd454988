"""Sizes in ONNX graphs: a free size is a vector of one int64."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from recfx.onnx.graph import OnnxGraph
from recfx.onnx.rule import Call
from recfx.onnx.types import Untranslated

#: Arithmetic on sizes -> the ONNX operator.
ARITHMETIC: dict[Any, str] = {
    operator.add: "Add",
    operator.sub: "Sub",
    operator.mul: "Mul",
    torch.sym_max: "Max",
    torch.sym_min: "Min",
}


def is_size(node: fx.Node) -> bool:
    """Whether the value of a node is a whole number."""
    return isinstance(node.meta.get("val"), int | torch.SymInt)


def size(call: Call, argument: Any) -> str:
    """A size among an operator's arguments."""
    if isinstance(argument, int):
        return call.graph.whole(argument)
    if isinstance(argument, fx.Node) and is_size(argument):
        return call.value(argument)
    raise Untranslated(f"expected a size, got {argument}")


def shape(call: Call, sizes: Sequence[Any], *, inferred: bool = False) -> str:
    """A vector of sizes.

    Args:
        call: The operator.
        sizes: Its argument.
        inferred: Whether one free size may be written as -1, which `Reshape` computes itself.
    """
    free = [at for at, one in enumerate(sizes) if not isinstance(one, int)]
    if not free:
        return call.graph.whole(*sizes)
    if inferred and len(free) == 1 and all(one > 0 for one in sizes if isinstance(one, int)):
        return call.graph.whole(*(one if isinstance(one, int) else -1 for one in sizes))
    parts: list[str] = []
    run: list[int] = []
    for one in sizes:
        if isinstance(one, int):
            run.append(one)
            continue
        if run:
            parts.append(call.graph.whole(*run))
            run = []
        parts.append(size(call, one))
    if run:
        parts.append(call.graph.whole(*run))
    return parts[0] if len(parts) == 1 else call.graph.op("Concat", *parts, axis=0)


def shape_of(graph: OnnxGraph, value: str, tensor: torch.Tensor) -> str:
    """The sizes of a value; a constant if all are fixed."""
    if all(isinstance(one, int) for one in tensor.shape):
        return graph.whole(*tensor.shape)
    return graph.op("Shape", value)


def size_of(graph: OnnxGraph, value: str, tensor: torch.Tensor, dim: int) -> str:
    """One size of a value."""
    if isinstance(tensor.shape[dim], int):
        return graph.whole(tensor.shape[dim])
    return graph.op("Shape", value, start=dim, end=dim + 1)


def reshape_like(call: Call, value: str, tensor: torch.Tensor, sizes: Sequence[Any]) -> str:
    """A value with other sizes. `sizes` may hold symbolic sizes of the result: at most one of them, or sizes of `tensor`.

    Raises:
        Untranslated: A free size follows from neither.
    """
    free = [at for at, one in enumerate(sizes) if not isinstance(one, int)]
    if len(free) <= 1 and all(one > 0 for one in sizes if isinstance(one, int)):
        wanted = [one if isinstance(one, int) else -1 for one in sizes]
        return call.graph.op("Reshape", value, call.graph.whole(*wanted))
    parts = [
        call.graph.whole(one) if isinstance(one, int) else _same_size(call.graph, value, tensor, one) for one in sizes
    ]
    vector = call.graph.op("Concat", *parts, axis=0) if parts else call.graph.whole()
    return call.graph.op("Reshape", value, vector, allowzero=1)


def _same_size(graph: OnnxGraph, value: str, tensor: torch.Tensor, wanted: Any) -> str:
    """The size of a tensor that equals a symbolic size."""
    for dim, one in enumerate(tensor.shape):
        if not isinstance(one, int) and one.node.expr == wanted.node.expr:
            return size_of(graph, value, tensor, dim)
    raise Untranslated("a free size that is not one of the operand's")


def translate_size(call: Call) -> str:
    """The translation of an operator whose result is a size.

    Raises:
        Untranslated: Another operator than reads of sizes and + - * // %.
    """
    node, graph = call.node, call.graph
    held = node.meta["val"]
    if isinstance(held, int):
        return graph.whole(int(held))
    if node.target is torch.ops.aten.sym_size.int:
        source, dim = call.args
        tensor = source.meta["val"]
        return size_of(graph, call.value(source), tensor, dim % tensor.ndim)
    if node.target is torch.ops.aten.sym_numel.default:
        return graph.op("Reshape", graph.op("Size", call.value(call.args[0])), graph.whole(1))
    operands = [size(call, argument) for argument in node.args]
    if node.target in ARITHMETIC:
        return graph.op(ARITHMETIC[node.target], *operands)
    if node.target is operator.neg:
        return graph.op("Neg", *operands)
    if node.target in (operator.floordiv, operator.mod):
        rest = graph.op("Mod", *operands)  # has the sign of the divisor, like Python's
        if node.target is operator.mod:
            return rest
        return graph.op("Div", graph.op("Sub", operands[0], rest), operands[1])
    raise Untranslated(f"arithmetic on sizes by {node.target}")
