"""Marks on verified nodes, so that the verification after the next pass checks only the changed nodes."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

_KEY = "recfx_verified"


def remember(node: fx.Node) -> None:
    """Marks an operator as verified: its recorded value follows from its arguments and their recorded values."""
    if node.op == "call_function":
        node.meta[_KEY] = _facts(node)


def is_verified(node: fx.Node) -> bool:
    """Whether the mark that `remember` set is still valid. Copies of a node share recorded values, so their marks stay valid."""
    return _KEY in node.meta and _same(node.meta[_KEY], _facts(node))


def _facts(node: fx.Node) -> tuple[Any, ...]:
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: n.meta.get("val"))
    return (node.target, args, dict(kwargs), node.meta.get("val"))


def _same(a: Any, b: Any) -> bool:
    """Compares tensors and symbolic sizes by identity, and constants by type and value."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, slice):
        return _same((a.start, a.stop, a.step), (b.start, b.stop, b.step))
    if isinstance(a, torch.Tensor | torch.SymInt | torch.SymFloat | torch.SymBool):
        return False
    return bool(a == b)
