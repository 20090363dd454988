"""The addresses of tensors, for the kernels."""

from __future__ import annotations

import torch

from recfx.errors import InputError

#: What to do about a tensor whose data pointer is null.
NO_MEMORY_HINT = (
    "pass ordinary CPU tensors, outside a mode of fake tensors: wrapper subclasses, fake tensors and tensors whose storage was freed hold "
    "no numbers"
)


def address(tensor: torch.Tensor) -> int:
    """Where the first element of a contiguous tensor lies; 0 where it has none.

    Raises:
        InputError: It has elements, but no memory that holds them.
    """
    found = tensor.data_ptr()
    if not found and tensor.numel():
        raise InputError(f"a tensor {tensor.dtype} {list(tensor.shape)} has no memory of its own", hint=NO_MEMORY_HINT)
    return found
