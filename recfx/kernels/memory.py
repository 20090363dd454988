"""The addresses of tensors, for the kernels."""

from __future__ import annotations

import torch

from recfx.errors import InputError

#: The next step for a tensor whose data pointer is null.
NO_MEMORY_HINT = (
    "pass ordinary CPU tensors, outside a mode of fake tensors: wrapper subclasses, fake tensors and tensors whose storage was freed have "
    "no memory"
)


def address(tensor: torch.Tensor) -> int:
    """The address of the first element of a contiguous tensor; 0 if it has no elements.

    Raises:
        InputError: It has elements, but no memory.
    """
    found = tensor.data_ptr()
    if not found and tensor.numel():
        raise InputError(f"a tensor {tensor.dtype} {list(tensor.shape)} has no memory of its own", hint=NO_MEMORY_HINT)
    return found
