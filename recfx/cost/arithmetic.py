"""The arithmetic and the memory traffic of a program for a given number of rows, counted from its fake shapes."""

from __future__ import annotations

import dataclasses
import operator
from typing import Any

import torch
from torch import fx

from recfx.cost.dialect_arithmetic import dialect_multiply_adds
from recfx.cost.layer_arithmetic import layer_multiply_adds
from recfx.cost.sizes import Sizes
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
    sizes = Sizes.of_program(program, {"batch": rows, "requests": requests})
    return {node: arithmetic_of_node(node, sizes) for node in program.graph.nodes if node.op == "call_function"}


def arithmetic_of_node(node: fx.Node, sizes: Sizes) -> Arithmetic:
    """The work of one operator under the given sizes."""
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
    counted = layer_multiply_adds(node, sizes)
    if counted is not None:
        return Arithmetic(counted, moved)
    reduces = sizes.elements(result) < max(map(sizes.elements, operands), default=0)
    return Arithmetic(max(map(sizes.elements, operands)) if reduces else sizes.elements(result), moved)


def _depth(node: fx.Node, sizes: Sizes) -> int:
    """The length of the sum for each element of a matrix product."""
    first: Any = node.args[1 if node.target in ADDED_PRODUCTS else 0]
    return sizes.number(first.meta["val"].shape[-1])


def _lookup(node: fx.Node, operands: list[Any], result: Any, sizes: Sizes) -> Arithmetic:
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
