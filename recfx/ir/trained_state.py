"""Which new tensors of a program take the place of trained parameters.

A pass that folds, joins or cuts weights stores the result as a new tensor. It is trained further like the weights that it came from; index
tables, masks and other tensors that no parameter is part of are not.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any

import torch
from torch import fx

#: The most operators between a parameter and the operator that reads what is computed from it.
_MOST = 64


def trained_dtypes(node: fx.Node, stored: Callable[[Any], torch.Tensor | None]) -> frozenset[torch.dtype]:
    """The dtypes of the trained parameters that a node, or one of its operands, is computed from.

    Args:
        node: The operator or the read in whose place a pass adds tensors.
        stored: The tensor behind a read of state; None for other nodes.
    """
    return frozenset().union(*(_parameters(source, stored) for source in (node, *node.all_input_nodes)))


def takes_over(tensor: torch.Tensor, trained: Container[torch.dtype]) -> bool:
    """Whether a tensor that a pass adds in the place of a node, or of an operand of it, stands for trained parameters.

    Args:
        tensor: The tensor. Only tensors of the dtype of a parameter are trained: not codes of fewer bits.
        trained: The node's `trained_dtypes`.
    """
    return tensor.is_floating_point() and tensor.layout is torch.strided and tensor.dtype in trained


def _parameters(node: fx.Node, stored: Callable[[Any], torch.Tensor | None]) -> set[torch.dtype]:
    """The dtypes of the trained parameters that a value is computed from; none for a value that depends on inputs."""
    found: set[torch.dtype] = set()
    seen, stack = {node}, [node]
    while stack:
        source = stack.pop()
        if source.op == "placeholder" or len(seen) > _MOST:
            return set()
        held = stored(source)
        if isinstance(held, torch.nn.Parameter) and held.requires_grad:
            found.add(held.dtype)
        fresh = [given for given in source.all_input_nodes if given not in seen]
        seen.update(fresh)
        stack.extend(fresh)
    return found
