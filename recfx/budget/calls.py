"""Calls of a model with a batch of inputs in the form of `example_inputs`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from recfx.capture.inputs import split_example
from recfx.compiled import CompiledModel


def call(model: Any, inputs: Any, forward: Callable[..., Any] | None = None) -> Any:
    """The outputs of a model.

    Args:
        model: A module, a compiled model, or any callable.
        inputs: A tensor, a tuple of positional arguments, or a dict, as `example_inputs` of `recfx.optimize`.
        forward: Called as `forward(model, *arguments, **keyword_arguments)` instead of the model.
    """
    args, kwargs = arguments(model, inputs)
    return model(*args, **kwargs) if forward is None else forward(model, *args, **kwargs)


def arguments(model: Any, inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A batch of inputs as positional and keyword arguments of a model."""
    if isinstance(model, CompiledModel):
        signature = model.program.signature
        if isinstance(inputs, Mapping) and inputs.keys() <= {*signature.parameters, *signature.defaults}:
            return (), dict(inputs)
        return (tuple(inputs), {}) if isinstance(inputs, tuple | list) else ((inputs,), {})
    if isinstance(model, nn.Module):
        return split_example(inputs, model)
    return (tuple(inputs), {}) if isinstance(inputs, tuple | list) else ((inputs,), {})
