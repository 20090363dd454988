"""The arithmetic and the memory traffic of a program for a given number of rows, counted from its fake shapes."""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from recfx.cost.dialect_arithmetic import dialect_multiply_adds
from recfx.ir.op_sets import (
    ADDED_PRODUCTS,
    BROADCASTS,
    DROPOUTS,
    JOINS,
    MATRIX_PRODUCTS,
    PERMUTATIONS,
    REGROUPINGS,
    SLICES,
    SPLITS,
    TABLE_LOOKUPS,
)
from recfx.ir.program import Program
from recfx.ops.lookup import grouped_lookup

_aten = torch.ops.aten


@dataclasses.dataclass(frozen=True)
class Arithmetic:
    """The work of one or several operators.

    Attributes:
        multiply_adds: Multiply-adds of matrix products, plus one for each element that an elementwise operator writes or a reduction reads.
        bytes: Bytes of the operands and results, without any effect of caches. A lookup reads only the selected rows of its table; a view
            moves nothing.
    """

    multiply_adds: int = 0
    bytes: int = 0

    def __add__(self, other: Arithmetic) -> Arithmetic:
        return Arithmetic(self.multiply_adds + other.multiply_adds, self.bytes + other.bytes)


def arithmetic(program: Program, rows: int, *, requests: int = 1) -> Arithmetic:
    """The work of one call.

    Args:
        program: The program.
        rows: The batch size: the number of candidates.
        requests: The number of requests, for a program that takes several.
    """
    return sum(arithmetic_of_nodes(program, rows, requests=requests).values(), Arithmetic())


def arithmetic_of_nodes(program: Program, rows: int, *, requests: int = 1) -> dict[fx.Node, Arithmetic]:
    """The work of each operator, for a number of rows; see `arithmetic`."""
    sizes = _sizes(program, {"batch": rows, "requests": requests})
    return {node: _work(node, sizes) for node in program.graph.nodes if node.op == "call_function"}


class _Sizes:
    """Numbers of elements under given values of the symbols."""

    def __init__(self, symbols: Mapping[Any, int]) -> None:
        self.symbols = dict(symbols)

    def number(self, size: Any) -> int:
        if isinstance(size, int):
            return size
        expression = size.node.expr.subs(self.symbols)
        return int(expression) if expression.is_number else int(size.node.hint or 1)

    def elements(self, value: Any) -> int:
        if isinstance(value, tuple | list):
            return sum(map(self.elements, value))
        return math.prod(map(self.number, value.shape)) if isinstance(value, torch.Tensor) else 0

    def bytes(self, value: Any) -> int:
        if isinstance(value, tuple | list):
            return sum(map(self.bytes, value))
        return self.elements(value) * value.element_size() if isinstance(value, torch.Tensor) else 0


def _sizes(program: Program, dims: Mapping[str, int]) -> _Sizes:
    symbols: dict[Any, int] = {}
    for node, leaf in zip(program.placeholders(), program.signature.leaves, strict=True):
        held = node.meta.get("val")
        if not isinstance(held, torch.Tensor):
            continue
        for size, name in zip(held.shape, leaf.shape, strict=True):
            if isinstance(size, torch.SymInt) and name in dims:
                symbols[size.node.expr] = dims[str(name)]
    return _Sizes(symbols)


def _work(node: fx.Node, sizes: _Sizes) -> Arithmetic:
    result = node.meta.get("val")
    if node.target in _FREE or not isinstance(result, torch.Tensor | tuple | list):
        return Arithmetic()
    operands = [n.meta.get("val") for n in node.all_input_nodes]
    written = sizes.bytes(result)
    if node.target in TABLE_LOOKUPS:
        return _lookup(node, operands, result, sizes)
    moved = written + sum(map(sizes.bytes, operands))
    known = dialect_multiply_adds(node, sizes.elements)
    if known is not None:
        read = 0 if node.target is grouped_lookup else moved - written  # a lookup reads as many bytes as it writes
        return Arithmetic(known, written + (read or written))
    if node.target in _MOVES:
        return Arithmetic(0, 2 * written)
    if node.target in _PRODUCTS:
        return Arithmetic(sizes.elements(result) * _depth(node, sizes), moved)
    if node.target is _aten.scaled_dot_product_attention.default:
        keys: Any = node.args[1]  # `operands` holds a tensor once, even if it is query, key and value
        length = sizes.number(keys.meta["val"].shape[-2])
        return Arithmetic(2 * sizes.elements(operands[0]) * length, moved)
    reduces = sizes.elements(result) < max(map(sizes.elements, operands), default=0)
    return Arithmetic(max(map(sizes.elements, operands)) if reduces else sizes.elements(result), moved)


def _depth(node: fx.Node, sizes: _Sizes) -> int:
    """The length of the sum for each element of a matrix product."""
    first: Any = node.args[1 if node.target in ADDED_PRODUCTS else 0]
    return sizes.number(first.meta["val"].shape[-1])


def _lookup(node: fx.Node, operands: list[Any], result: Any, sizes: _Sizes) -> Arithmetic:
    table, ids = operands[:2]
    if node.target is _aten.embedding.default:
        return Arithmetic(0, sizes.bytes(ids) + 2 * sizes.bytes(result))
    width = sizes.number(table.shape[1])
    read = sizes.elements(ids) * width
    return Arithmetic(read, sizes.bytes(ids) + read * table.element_size() + sizes.bytes(result[0]))


_PRODUCTS = {_aten.linear.default, *MATRIX_PRODUCTS, *ADDED_PRODUCTS}
#: Operators that only copy or fill memory.
_MOVES = {
    *(*JOINS, _aten.clone.default, _aten.contiguous.default, _aten.repeat.default),
    *(_aten.index.Tensor, _aten.index_select.default, _aten.gather.default, _aten.flip.default, _aten.to.dtype),
    *(_aten.full.default, _aten.zeros.default, _aten.ones.default, _aten.arange.start_step),
}
#: Operators that return views or their operand; a reshape is counted as a view.
_FREE = {
    *(operator.getitem, _aten.select.int, _aten.unbind.int, _aten.alias.default, _aten.detach.default),
    *(*REGROUPINGS, *PERMUTATIONS, *BROADCASTS, *SLICES, *SPLITS, *DROPOUTS),
}
