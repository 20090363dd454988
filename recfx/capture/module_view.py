"""Module views: modules that share the state of a model, with other buffers or another `forward`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch


def module_view(model: torch.nn.Module, buffers: Mapping[str, torch.Tensor] | None = None) -> torch.nn.Module:
    """A module of the same class that shares parameters, buffers, submodules and attributes with a model.

    Neither `__init__` nor the copy protocol of the class runs: modules with parametrizations refuse to be copied.

    Args:
        model: The model. Assignments to the view do not change it.
        buffers: Further buffers of the view, which are not part of its state dict.
    """
    view: torch.nn.Module = type(model).__new__(type(model))
    state = vars(view)
    state.update(vars(model))
    if buffers:
        state["_buffers"] = dict(model._buffers)
        state["_non_persistent_buffers_set"] = set(model._non_persistent_buffers_set)
        for name, tensor in buffers.items():
            view.register_buffer(name, tensor, persistent=False)
    return view


def set_forward(view: torch.nn.Module, forward: Callable[..., Any], signature: inspect.Signature) -> torch.nn.Module:
    """Gives a view another `forward` with the given signature, and returns the view."""
    forward.__signature__ = signature  # type: ignore[attr-defined]
    vars(view)["forward"] = forward
    return view
