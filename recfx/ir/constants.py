"""Inputs that the user declared constant: they are part of the model, and a call may leave them out."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from recfx.errors import InputError


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """A fingerprint of a tensor's contents.

    Attributes:
        dtype: Element type, without "torch.".
        shape: Sizes.
        digest: BLAKE2 of the elements in order.
    """

    dtype: str
    shape: tuple[int, ...]
    digest: str


def fingerprint(tensor: torch.Tensor) -> Fingerprint:
    """The fingerprint of a dense tensor."""
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    digest = hashlib.blake2b(flat.numpy().tobytes(), digest_size=16).hexdigest()
    return Fingerprint(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), digest)


def without_constants(
    forward: Sequence[str],
    constants: Mapping[str, Fingerprint | None],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call without the constant ones.

    Args:
        forward: The parameters given at capture and the constant parameters, in the order of the model's forward.
        constants: The value that each constant parameter must have when it is passed; None when it is not checked.
        args: Positional arguments: for all parameters, or for the parameters that are not constant.
        kwargs: Keyword arguments.

    Raises:
        InputError: The call passes another value for a constant.
    """
    given = {name: value for name, value in kwargs.items() if name in constants}
    rest = {name: value for name, value in kwargs.items() if name not in constants}
    positional = tuple(args)
    free = len(forward) - len(constants)
    if len(args) + sum(name in forward for name in rest) > free and len(args) <= len(forward):
        named = dict(zip(forward, args, strict=False))
        given.update({name: value for name, value in named.items() if name in constants})
        positional = tuple(value for name, value in named.items() if name not in constants)
    for name, value in given.items():
        expected = constants[name]
        if expected is not None and (not isinstance(value, torch.Tensor) or fingerprint(value) != expected):
            raise InputError(
                f"input {name!r} was declared constant, and its value has changed since",
                hint="leave it out, or call compiled.refresh(constant_inputs={...}) with the new value",
            )
    return positional, rest


def same_constant(a: Any, b: Any) -> bool:
    """Whether two constants are equal; works for NaN, arrays, and types without a usable `==`."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind in "fc")
    if isinstance(a, float | complex | np.inexact) and a != a:
        return bool(b != b)
    result = a == b
    return bool(result) if isinstance(result, bool | np.bool_) else False
