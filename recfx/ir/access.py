"""Typed access to the value and the arguments of a node.

`node.meta["val"]` and `node.args` have no useful static type. These functions check the type that a caller expects, so that a graph
that breaks the expectation fails with the node and the user's line.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import fx

from recfx.errors import VerificationError
from recfx.ir.provenance import where

T = TypeVar("T")


def tensor_of(node: Any) -> torch.Tensor:
    """The fake tensor of a node that gives one tensor.

    Raises:
        VerificationError: `node` is not a node, or its value is not one tensor.
    """
    held = node.meta.get("val") if isinstance(node, fx.Node) else None
    if not isinstance(held, torch.Tensor):
        raise VerificationError(
            f"expected a node with one tensor as its value, got {_kind(held if isinstance(node, fx.Node) else node)}",
            where=where(node) if isinstance(node, fx.Node) else None,
        )
    return held


def argument_of(node: fx.Node, index: int, kind: type[T]) -> T:
    """A positional argument of one type.

    Args:
        node: The operator.
        index: Position of the argument; negative positions count from the end.
        kind: The expected type; `float` accepts whole numbers as well and gives a float.

    Raises:
        VerificationError: The argument is missing or has another type.
    """
    found = _positional(node, index)
    if kind is float and isinstance(found, int | float):
        return kind(found)  # type: ignore[call-arg]
    if not isinstance(found, kind):
        raise _unexpected(node, index, kind.__name__, found)
    return found


def items_of(node: fx.Node, index: int) -> list[Any]:
    """A positional argument that is a list or a tuple, as a list.

    Raises:
        VerificationError: The argument is missing or is not a sequence.
    """
    found = _positional(node, index)
    if not isinstance(found, list | tuple):
        raise _unexpected(node, index, "list", found)
    return list(found)


def _positional(node: fx.Node, index: int) -> Any:
    args: Sequence[Any] = node.args
    if not -len(args) <= index < len(args):
        raise VerificationError(f"argument {index} is missing: the node has {len(args)} arguments", where=where(node))
    return args[index]


def _unexpected(node: fx.Node, index: int, expected: str, found: Any) -> VerificationError:
    return VerificationError(f"expected {expected} as argument {index}, got {_kind(found)}", where=where(node))


def _kind(found: Any) -> str:
    return "no value" if found is None else type(found).__name__
