"""Models with another `forward` in front of their own, for calls that torch.export does not accept.

Such calls have dynamic shapes of variadic keywords, automatic dimensions that must all be the same batch, or values that export does not
accept as data.
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
    """The model and the call, with positional parameters in place of `**kwargs`; unchanged when forward has no `**kwargs`."""
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
    """The model with a forward that declares the dynamic first dimensions of all inputs to be equal."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor) and leaf.ndim]
        free = [tensor.shape[0] for tensor in tensors if isinstance(tensor.shape[0], torch.SymInt)]
        for size in free[1:]:
            torch._check(size == free[0])
        return model.forward(*args, **kwargs)

    return set_forward(module_view(model), forward, inspect.signature(model.forward))


def without_held(model: torch.nn.Module, call: Call, *, outputs: bool) -> tuple[torch.nn.Module, Call]:
    """The model and the call without held values, which export does not accept as data; unchanged without such values.

    Args:
        model: The model.
        call: The inputs. A held value in them becomes None, and the new forward passes the value itself.
        outputs: Whether the outputs of the model contain held values; each becomes a `Held` node.
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
