"""Dotted names of a module's state."""

from __future__ import annotations

from typing import Any

import torch

_EMPTY: dict[str, Any] = {}


def get_state(module: torch.nn.Module, name: str) -> Any:
    """The attribute at a dotted path of a module.

    Raises:
        AttributeError: The module has no attribute there.
    """
    value: Any = module
    for part in name.split("."):
        held = value.__dict__ if isinstance(value, torch.nn.Module) else _EMPTY
        for kind in ("_modules", "_parameters", "_buffers"):  # `getattr` finds these last, after an error
            found = held.get(kind, _EMPTY).get(part)
            if found is not None:
                value = found
                break
        else:
            value = getattr(value, part)
    return value
