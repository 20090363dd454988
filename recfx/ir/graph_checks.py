"""A faster form of a check that torch makes for every node of a graph.

`fx.Graph.create_node` warns of symbolic numbers among the arguments of a new node. It walks over them with a function for any nesting of
registered containers, which takes longer than making the node. Arguments of nodes are nested in tuples, lists, dicts and slices only.
"""

from __future__ import annotations

import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.fx import graph
from torch.utils import _pytree as pytree

_SYMBOLIC = (torch.SymInt, torch.SymFloat, torch.SymBool)
_lock = threading.Lock()
_depth = 0
_OWN: Any = getattr(graph, "pytree", None)


@contextmanager
def quick_argument_checks() -> Iterator[None]:
    """Within it, graphs look for symbolic numbers among arguments with `symbolic_leaves`."""
    global _depth
    replaced = _OWN is pytree
    with _lock:
        _depth += 1
        if replaced and _depth == 1:
            vars(graph)["pytree"] = types.SimpleNamespace(**{**vars(pytree), "tree_iter": symbolic_leaves})
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if replaced and not _depth:
                vars(graph)["pytree"] = _OWN


def symbolic_leaves(value: Any) -> Iterator[Any]:
    """The symbolic numbers in the arguments of a node, which are all that the check looks for."""
    return iter(_found(value))


def _found(value: Any) -> list[Any]:
    found: list[Any] = []
    for part in value.values() if isinstance(value, dict) else value:
        if isinstance(part, tuple | list | dict):
            found += _found(part)
        elif isinstance(part, slice):
            found += _found((part.start, part.stop, part.step))
        elif isinstance(part, _SYMBOLIC):
            found.append(part)
    return found
