"""Programs of ATen as `torch.export.ExportedProgram`, with the same flat inputs, outputs and free dimensions."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from recfx.errors import TargetError
from recfx.ir.program import Program
from recfx.ir.sizes import evaluate_size, linear_size

#: The first size that stands for a dimension while a program is traced. Sizes of 0 and 1 would be fixed.
_FIRST_SIZE = 5


def exported(program: Program) -> torch.export.ExportedProgram:
    """A program as torch.export records it: its inputs are the flat inputs of the program, its outputs a flat tuple.

    Args:
        program: The program, of operators of ATen and of libraries of torch.

    Raises:
        TargetError: An input is not a tensor.
    """
    leaves, shapes = _traced_inputs(program)
    module = fx.GraphModule(program.module, program.graph)  # torch.export reads its signature
    with torch.no_grad():
        return torch.export.export(module, tuple(leaves), dynamic_shapes=shapes)


def dimension_names(program: Program) -> tuple[dict[int, str], ...]:
    """The names of the free dimensions, input by input."""
    dims = program.signature.dims
    return tuple({i: str(s) for i, s in enumerate(leaf.shape) if s in dims} for leaf in program.signature.leaves)


def _traced_inputs(program: Program) -> tuple[list[Any], tuple[Any, ...]]:
    """Inputs of the sizes that tracing uses, and which of their dimensions are free, in torch.export's form."""
    dims: dict[str, Any] = {}
    sizes: dict[str, int] = {}
    for place, (name, (low, high)) in enumerate(program.signature.dims.items()):
        sizes[name] = min(max(_FIRST_SIZE + 2 * place, low), high or _FIRST_SIZE + 2 * place)
        dims[name] = torch.export.Dim(name, min=low, max=high)
    leaves, shapes = [], []
    for leaf in program.signature.leaves:
        if leaf.kind != "tensor":
            raise TargetError(
                f"the input {leaf.name} is not a tensor; exported models take tensors only",
                hint="export a part of the model that takes tensors only",
            )
        shape = [size if isinstance(size, int) else int(evaluate_size(size, sizes) or 0) for size in leaf.shape]
        leaves.append(torch.zeros(shape, dtype=leaf.dtype))
        shapes.append({i: _dimension(size, dims) for i, size in enumerate(leaf.shape) if isinstance(size, str)})
    return leaves, tuple(shapes)


def _dimension(size: str, dims: dict[str, Any]) -> Any:
    """A free size in torch.export's form, which has multiples of one dimension plus a number; others are inferred by tracing."""
    found = linear_size(size, ())
    if found is None:
        return torch.export.Dim.AUTO
    name, factor, base = found
    dim = dims[name] if factor == 1 else factor * dims[name]
    return dim + base if base else dim
