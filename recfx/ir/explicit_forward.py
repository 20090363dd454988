"""Models whose `forward` takes `**kwargs`: the same model with one parameter for each input.

torch.export does not take dynamic shapes of variadic keywords.
"""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import torch

from recfx.ir.inputs import Call


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
    forward.__signature__ = inspect.Signature([inspect.Parameter(n, kind) for n in names])  # type: ignore[attr-defined]
    view: torch.nn.Module = type(model).__new__(type(model))
    view.__dict__.update(model.__dict__)
    view.__dict__["forward"] = forward
    return view, explicit
