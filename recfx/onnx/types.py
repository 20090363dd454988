"""The types of tensors in ONNX models."""

from __future__ import annotations

import torch

#: torch's type -> its number in ONNX models.
CODES: dict[torch.dtype, int] = {
    torch.float32: 1,
    torch.uint8: 2,
    torch.int8: 3,
    torch.int16: 5,
    torch.int32: 6,
    torch.int64: 7,
    torch.bool: 9,
    torch.float16: 10,
    torch.float64: 11,
    torch.bfloat16: 16,
}

#: Types of whole numbers.
WHOLE = frozenset({torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64})


def code_of(dtype: torch.dtype) -> int:
    """The number of a type in ONNX models.

    Raises:
        Untranslated: ONNX models have no such type.
    """
    if dtype not in CODES:
        raise Untranslated(f"ONNX has no tensors of {dtype}")
    return CODES[dtype]


class Untranslated(Exception):
    """An operator has no ONNX form; the text is the reason."""


__all__ = ["CODES", "WHOLE", "Untranslated", "code_of"]
