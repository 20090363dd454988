"""The optional arguments of operators, as their schemas list them, with values that random graphs give them."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import torch

#: The name of the step that repeats an operator with another argument.
TWIN = "twin"

#: Arguments that random graphs leave alone: storage of tensors, random numbers, and options that only training reads.
FIXED = {
    *("layout", "device", "pin_memory", "memory_format", "generator", "non_blocking", "copy", "sparse", "implicit"),
    *("dropout_p", "enable_gqa", "scale_grad_by_freq", "sparse_grad", "cudnn_enable"),
}

_CHOICES: dict[str, list[Any]] = {
    "approximate": ["none", "tanh"],
    "rounding_mode": ["floor", "trunc"],
    "dtype": [torch.float64, torch.float32],
}
_BY_TYPE: dict[str, list[Any]] = {
    "bool": [True, False],
    "number": [2, 1, 0.5, 0, -1, True],
    "float": [0.5, 1.0, 2.0],
    "int": [1, 0, 2, -1],
    "Optional[number]": [1, 0.5, 0],
    "Optional[float]": [0.5, 1.0],
    "Optional[int]": [1, 0, 2],
}


@dataclasses.dataclass(frozen=True)
class Option:
    """One optional argument.

    Attributes:
        place: Its position among the arguments.
        by_keyword: Whether it is given by keyword only.
        values: Values to choose from.
    """

    place: int
    by_keyword: bool
    values: tuple[Any, ...]


@cache
def argument_names(target: Any) -> tuple[str, ...]:
    """The names of an operator's arguments, in order."""
    return tuple(argument.name for argument in target._schema.arguments)


@cache
def optional_arguments(target: Any) -> dict[str, Option]:
    """Name -> optional argument of an operator, without those in `FIXED`."""
    found: dict[str, Option] = {}
    if not isinstance(target, torch._ops.OpOverload):
        return found
    for place, argument in enumerate(target._schema.arguments):
        if not argument.has_default_value() or argument.name in FIXED:
            continue
        values = _CHOICES.get(argument.name, _BY_TYPE.get(str(argument.type)))
        if values:
            found[argument.name] = Option(place, argument.kwarg_only, tuple(values))
    return found
