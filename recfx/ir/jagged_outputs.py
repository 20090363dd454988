"""JaggedTensors as outputs, built without the checks of their constructor: the compiled model has checked its inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree


def jagged_builder(kind: Any) -> Callable[..., Any]:
    """A function that builds a JaggedTensor from values, weights, lengths and offsets.

    The constructor takes a fifth of the time of a small model. The function sets the attributes in which the constructor stores its
    arguments; an object that the constructor made shows which. It calls the constructor if that object has other attributes with values.

    Args:
        kind: TorchRec's class JaggedTensor.
    """
    unflatten = pytree.SUPPORTED_NODES[kind].unflatten_fn
    given = [torch.zeros(1), torch.zeros(1), torch.ones(1, dtype=torch.int64), torch.tensor([0, 1])]
    held = vars(unflatten(given, None))
    names = [name for part in given for name, value in held.items() if value is part]
    rest = {name: value for name, value in held.items() if name not in names}
    if len(names) != len(given) or any(value is not None for value in rest.values()):
        return lambda *parts: unflatten(list(parts), None)
    values_name, weights_name, lengths_name, offsets_name = names

    def build(values: Any, weights: Any, lengths: Any, offsets: Any) -> Any:
        made = kind.__new__(kind)
        made.__dict__.update(rest)
        attributes = made.__dict__
        attributes[values_name] = values
        attributes[weights_name] = weights
        attributes[lengths_name] = lengths
        attributes[offsets_name] = offsets
        return made

    return build
