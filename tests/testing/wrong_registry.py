"""The list of wrong passes that the kit must find, and helpers for their definitions."""

from __future__ import annotations

from typing import Any

import torch

import recfx
from recfx.pipeline import Pass

REASSOC = recfx.Exactness.REASSOC

#: The fact that a pass overlooks -> the pass.
WRONG: dict[str, Pass] = {}


def wrong(name: str, *targets: Any, **spec: Any) -> Any:
    """Registers a rewrite under the fact that it overlooks."""

    def keep(rule: Any) -> Any:
        WRONG[name] = recfx.rewrite(*targets, **spec)(rule)
        return WRONG[name]

    return keep


def is_node(value: Any) -> bool:
    """Whether an argument is a value of the graph."""
    return isinstance(value, torch.fx.Node)


def called(node: Any, target: Any) -> bool:
    """Whether an argument is the result of an operator."""
    return isinstance(node, torch.fx.Node) and node.target is target


def is_original(node: Any) -> bool:
    """Whether no pass made the node."""
    return not node.meta.get("recfx_pass")
