"""Sizes of a region as functions of its inputs: Python code that computes them at a call."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from recfx.ir import size_expressions
from recfx.ir.region import Region
from recfx.ir.sizes import linear_size


class InputSizes:
    """Computes sizes from the inputs of a region.

    Args:
        region: The region. Its inputs are called x0, x1, ... in the code.
    """

    def __init__(self, region: Region) -> None:
        #: Symbol -> Python code of its value.
        self.sources: dict[str, str] = {}
        for index, node in enumerate(region.placeholders()):
            held = node.meta.get("val")
            if isinstance(held, torch.SymInt):
                self.learn(held, f"x{index}")
            for axis, size in enumerate(getattr(held, "shape", ())):
                self.learn(size, f"x{index}.shape[{axis}]")
        for index, node in enumerate(region.placeholders()):
            for axis, size in enumerate(getattr(node.meta.get("val"), "shape", ())):
                self._derive(size, f"x{index}.shape[{axis}]")

    def learn(self, size: Any, code: str) -> None:
        """Takes the code of a size that does not follow from those of the inputs."""
        expression = expression_of(size)
        if isinstance(expression, str) and expression.isidentifier():
            self.sources.setdefault(expression, code)

    def _derive(self, size: Any, code: str) -> None:
        """Learns a dimension from a size that is linear in it, such as the number of ids of bags of one length."""
        expression = expression_of(size)
        try:
            linear = None if isinstance(expression, int) else linear_size(expression, self.sources)
        except ValueError:  # a size that the grammar does not have
            return
        if linear is not None:
            dimension, factor, base = linear
            self.sources[dimension] = f"(({code} - {base}) // {factor})"

    def code(self, size: Any) -> str | None:
        """Python code of a size; None when it does not follow from the inputs' sizes."""
        expression = expression_of(size)
        if isinstance(expression, int):
            return str(expression)
        try:
            if not self.sources.keys() >= set(size_expressions.dimensions(expression)):
                return None
            return size_expressions.render(expression, self.sources)
        except ValueError:  # a size that the grammar does not have
            return None


def expression_of(size: Any) -> int | str:
    """A size as an integer or as the text of its expression."""
    if isinstance(size, int):
        return size
    expression = size.node.expr if hasattr(size, "node") else size
    return int(expression) if getattr(expression, "is_Integer", False) else str(expression)


def reads_number(node: fx.Node) -> bool:
    """Whether a node reads a number from a tensor, such as the number of ids."""
    return node.target in (torch.ops.aten.item.default, torch.ops.aten._local_scalar_dense.default)


def is_size(node: fx.Node) -> bool:
    """Whether a node computes a size or another number, rather than tensors."""
    return isinstance(node.meta.get("val"), torch.SymInt | torch.SymFloat | torch.SymBool | int | float | bool)
