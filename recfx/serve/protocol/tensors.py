"""Tensors as bytes, and the checks of names, shapes and parameters that both protocols make."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch

from recfx.errors import InputError
from recfx.serve.engine.datatypes import NAMES
from recfx.serve.outcomes import Reason, Rejected

_MOST_DIMENSIONS: Final = 16


def checked_shape(sizes: list[Any], where: str) -> list[int]:
    """The sizes of a tensor.

    Raises:
        InputError: They are too many, or not sizes.
    """
    if len(sizes) > _MOST_DIMENSIONS or not all(
        isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**40 for n in sizes
    ):
        raise InputError(f"{sizes!r:.80} is not a shape", where=where, hint="send a list of sizes")
    return sizes


def from_bytes(
    body: bytes | bytearray, offset: int, size: int, dtype: torch.dtype, shape: Sequence[int], where: str
) -> torch.Tensor:
    """A tensor from little-endian bytes; it shares their memory if they are writable and aligned.

    Raises:
        InputError: The number of bytes does not fit the shape.
    """
    wanted = math.prod(shape) * dtype.itemsize
    if size != wanted:
        raise InputError(
            f"{size} bytes do not fill {NAMES[dtype]} of shape {list(shape)}, which are {wanted}",
            where=where,
            hint="send all bytes of the tensor",
        )
    if not size:
        return torch.empty(tuple(shape), dtype=dtype)
    held = np.frombuffer(body, np.uint8, size, offset)
    if not held.flags.writeable or held.__array_interface__["data"][0] % dtype.itemsize:
        held = held.copy()
    tensor = torch.from_numpy(held).view(dtype).view(shape)
    if dtype is torch.bool and bool((tensor.view(torch.uint8) > 1).any()):
        raise InputError("a byte of BOOL data is neither 0 nor 1", where=where, hint="send 0 or 1 for each value")
    return tensor


def chosen_outputs(
    wanted: Sequence[tuple[str, bool]] | None, names: Sequence[str], binary: bool
) -> Sequence[tuple[str, bool]]:
    """The outputs to return and whether each is binary.

    Raises:
        Rejected: The model does not have one of them.
    """
    if wanted is None:
        return [(name, binary) for name in names]
    for name, _ in wanted:
        if name not in names:
            raise Rejected(
                Reason.INVALID, f"the model has no output {name!r}", where="outputs", hint=f"it has {', '.join(names)}"
            )
    return wanted


def to_bytes(tensor: torch.Tensor) -> bytes:
    """The values of a tensor as little-endian bytes."""
    held = tensor.contiguous()
    if held.dtype is torch.bfloat16:  # NumPy has no such type
        held = held.view(torch.int16)
    return held.numpy().tobytes()


def timeout_of(parameters: Mapping[str, Any]) -> float | None:
    """The parameter "timeout" of a request, in seconds; it is sent in microseconds.

    Raises:
        Rejected: It is not a number of microseconds.
    """
    value = parameters.get("timeout")
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise Rejected(
            Reason.INVALID,
            f"expected microseconds, got {value!r:.80}",
            where="parameter timeout",
            hint="send an integer, 0 for no timeout",
        )
    return value * 1e-6 if value else None
