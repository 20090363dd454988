"""Bytes of the tensors of a program at a batch size."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from recfx.ir.program import Program
from recfx.ir.region import batch_symbol


class Bytes:
    """Bytes of values at a number of rows. Other dynamic sizes have their values in the example.

    Args:
        program: The program.
        rows: The batch size.
    """

    def __init__(self, program: Program, rows: int) -> None:
        symbol = batch_symbol(program)
        self._values = {} if symbol is None else {symbol: rows}
        self._known: dict[Any, int] = {}

    def of(self, node: fx.Node) -> int:
        """Bytes of the value of a node; 0 for values other than tensors."""
        return self._bytes(node.meta.get("val"))

    def _bytes(self, value: Any) -> int:
        if isinstance(value, tuple | list):
            return sum(map(self._bytes, value))
        if not isinstance(value, torch.Tensor):
            return 0
        return math.prod(map(self._size, value.shape)) * value.element_size()

    def _size(self, size: Any) -> int:
        if isinstance(size, int):
            return size
        expression = size.node.expr
        if expression not in self._known:
            found = expression.subs(self._values)
            self._known[expression] = int(found) if found.is_number else int(size.node.hint or 1)
        return self._known[expression]
