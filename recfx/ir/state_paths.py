"""Dotted names of a module's state."""

from __future__ import annotations

from typing import Any

import torch


def get_state(module: torch.nn.Module, name: str) -> Any:
    """The attribute at a dotted path of a module.

    Raises:
        AttributeError: The module has no attribute there.
    """
    value: Any = module
    for part in name.split("."):
        value = _attribute(value, part)
    return value


def _attribute(owner: Any, name: str) -> Any:
    """An attribute, most often a submodule, parameter or buffer; `getattr` finds these last, after an error."""
    held = owner.__dict__ if isinstance(owner, torch.nn.Module) else {}
    for kind in ("_modules", "_parameters", "_buffers"):
        found = held.get(kind, {}).get(name)
        if found is not None:
            return found
    return getattr(owner, name)
