"""Function transforms of torch.func in an export, such as `torch.vmap`.

An export records a transformed function as the operators of one row, between calls that enter and leave the transform. A second trace
applies the transform, so that the graph holds the operators of all rows.
"""

from __future__ import annotations

import torch
from torch import fx

from recfx.capture.export_ladder import quiet

#: The module of the functions that enter and leave a transform.
_TRANSFORMS = "torch._functorch.predispatch"


def without_transforms(exported: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The same export with all function transforms applied, and its own operators kept as they are."""
    if not any(_is_transform(node) for node in exported.graph.nodes):
        return exported
    with quiet():
        applied: torch.export.ExportedProgram = exported.run_decompositions({})
    return applied


def _is_transform(node: fx.Node) -> bool:
    return node.op == "call_function" and getattr(node.target, "__module__", None) == _TRANSFORMS
