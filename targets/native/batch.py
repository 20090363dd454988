"""Which size of a program is the batch."""

from __future__ import annotations

from typing import Any

import torch

from recfx.ir.program import Program
from recfx.ir.shapes import BATCH
from recfx.ir.sizes import dimension_names


def batch_symbol(program: Program) -> Any:
    """The symbol of the batch: that of the dimension which the signature calls so, else of the first free size of the inputs.

    None when nothing varies.
    """
    free = [
        (name, size.node.expr)
        for node, leaf in zip(program.placeholders(), program.signature.leaves, strict=True)
        for name, size in zip(leaf.shape, getattr(node.meta.get("val"), "shape", ()), strict=False)
        if isinstance(size, torch.SymInt)
    ]
    for name, expression in free:
        if dimension_names(name) == [BATCH] and len(expression.free_symbols) == 1:
            return next(iter(expression.free_symbols))
    return next((expression for _, expression in free if expression.is_Symbol), None)
