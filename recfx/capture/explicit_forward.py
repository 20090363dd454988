"""A model with another `forward` in front of its own, for calls that torch.export does not take as they are.

These are dynamic shapes of variadic keywords, dimensions that export shall choose by itself but that are the same batch, and values that
export does not take as data.
"""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import torch
from torch.utils import _pytree as pytree

from recfx.capture.inputs import Call
from recfx.capture.module_view import module_view, set_forward
from recfx.ir.held_values import hold, is_held_input


def explicit_forward(model: torch.nn.Module, call: Call) -> tuple[torch.nn.Module, Call]:
    """The model and the call to export: themselves, or with positional parameters in place of `**kwargs`."""
    parameters = inspect.signature(model.forward).parameters.values()
    if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
        return model, call
    names = tuple(f"input_{i}" for i in range(len(call.names)))
    explicit = dataclasses.replace(call, names=names, args=tuple(call.values), kwargs={}, variadic=None)

    def forward(*values: Any) -> Any:
        bound = call.with_values(values)
        return model.forward(*bound.args, **bound.kwargs)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return set_forward(
        module_view(model), forward, inspect.Signature([inspect.Parameter(n, kind) for n in names])
    ), explicit


def one_batch(model: torch.nn.Module) -> torch.nn.Module:
    """The model, where the first dimensions of all inputs that vary are known to be the same."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor) and leaf.ndim]
        free = [tensor.shape[0] for tensor in tensors if isinstance(tensor.shape[0], torch.SymInt)]
        for size in free[1:]:
            torch._check(size == free[0])
        return model.forward(*args, **kwargs)

    return set_forward(module_view(model), forward, inspect.signature(model.forward))


def without_held(model: torch.nn.Module, call: Call, *, outputs: bool) -> tuple[torch.nn.Module, Call]:
    """The model and the call to export without values that export does not take as data: unchanged where the call has no such values.

    Args:
        model: The model.
        call: Its inputs. A value of this kind among them becomes None, and forward is given the value itself.
        outputs: Whether the outputs of the model hold such values, each of which becomes a `Held` node.
    """
    given, spec = pytree.tree_flatten((call.args, call.kwargs))
    held = {position: leaf for position, leaf in enumerate(given) if is_held_input(leaf)}
    if not held and not outputs:
        return model, call

    def forward(*args: Any, **kwargs: Any) -> Any:
        leaves = pytree.tree_leaves((args, kwargs))
        args, kwargs = pytree.tree_unflatten([held.get(i, leaf) for i, leaf in enumerate(leaves)], spec)
        return hold(model.forward(*args, **kwargs))

    values = pytree.tree_map(lambda leaf: None if is_held_input(leaf) else leaf, tuple(call.values))
    return set_forward(module_view(model), forward, inspect.signature(model.forward)), call.with_values(values)
