"""Which nodes a verification has found right already, so that the one after the next pass looks at the changed nodes only."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

_KEY = "recfx_verified"


def remember(node: fx.Node) -> None:
    """Notes that the recorded value of an operator follows from its arguments and their recorded values."""
    if node.op == "call_function":
        node.meta[_KEY] = _facts(node)


def is_verified(node: fx.Node) -> bool:
    """Whether a note from `remember` still describes the node. Copies of nodes share recorded values, and so keep their notes."""
    return _KEY in node.meta and _same(node.meta[_KEY], _facts(node))


def _facts(node: fx.Node) -> tuple[Any, ...]:
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: n.meta.get("val"))
    return (node.target, args, dict(kwargs), node.meta.get("val"))


def _same(a: Any, b: Any) -> bool:
    """Equality by identity for values that could be compared only by looking into them, and by type and value for constants."""
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
