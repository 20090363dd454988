"""Numbers of elements and of bytes of fake tensors under given values of their symbols."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from recfx.ir.program import Program
from recfx.ir.region import Region


class Sizes:
    """Sizes under given values of the symbols. A symbol without a value has its value in the example.

    Args:
        symbols: Symbol -> its value.
    """

    def __init__(self, symbols: Mapping[Any, int]) -> None:
        self.symbols = dict(symbols)
        self._known: dict[Any, int] = {}

    @staticmethod
    def of_program(program: Program, dims: Mapping[str, int]) -> Sizes:
        """Sizes of a program under values of named dimensions."""
        symbols: dict[Any, int] = {}
        for node, leaf in zip(program.placeholders(), program.signature.leaves, strict=True):
            held = node.meta.get("val")
            if not isinstance(held, torch.Tensor):
                continue
            for size, name in zip(held.shape, leaf.shape, strict=True):
                if isinstance(size, torch.SymInt) and name in dims:
                    symbols[size.node.expr] = dims[str(name)]
        return Sizes(symbols)

    @staticmethod
    def of_region(region: Region, rows: int) -> Sizes:
        """Sizes of a region at a batch size."""
        return Sizes({} if region.batch is None else {region.batch: rows})

    def number(self, size: Any) -> int:
        """The value of a size."""
        if isinstance(size, int):
            return size
        expression = size.node.expr
        if expression not in self._known:
            found = expression.subs(self.symbols)
            self._known[expression] = int(found) if found.is_number else int(size.node.hint or 1)
        return self._known[expression]

    def elements(self, value: Any) -> int:
        """The number of elements of a tensor, or of all tensors of a tuple."""
        if isinstance(value, tuple | list):
            return sum(map(self.elements, value))
        return math.prod(map(self.number, value.shape)) if isinstance(value, torch.Tensor) else 0

    def bytes(self, value: Any) -> int:
        """Bytes of a tensor, or of all tensors of a tuple."""
        if isinstance(value, tuple | list):
            return sum(map(self.bytes, value))
        return self.elements(value) * value.element_size() if isinstance(value, torch.Tensor) else 0
