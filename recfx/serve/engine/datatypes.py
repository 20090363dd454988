"""The datatypes of the Open Inference Protocol (v2) and their dtypes in torch."""

from __future__ import annotations

from typing import Final

import torch

from recfx.errors import InputError

DTYPES: Final = {
    "BOOL": torch.bool,
    "UINT8": torch.uint8,
    "UINT16": torch.uint16,
    "UINT32": torch.uint32,
    "UINT64": torch.uint64,
    "INT8": torch.int8,
    "INT16": torch.int16,
    "INT32": torch.int32,
    "INT64": torch.int64,
    "FP16": torch.float16,
    "BF16": torch.bfloat16,
    "FP32": torch.float32,
    "FP64": torch.float64,
}
NAMES: Final = {dtype: name for name, dtype in DTYPES.items()}

_INTEGERS: Final = frozenset(dtype for name, dtype in DTYPES.items() if name.startswith(("INT", "UINT")))


def dtype_of(datatype: object, where: str) -> torch.dtype:
    """The dtype of a datatype's name.

    Raises:
        InputError: There is no tensor of this datatype.
    """
    found = DTYPES.get(datatype) if isinstance(datatype, str) else None
    if found is None:
        raise InputError(
            f"unknown datatype {datatype!r}",
            where=where,
            hint=f"pass one of {', '.join(DTYPES)}; text has to become ids first",
        )
    return found


def fitted(tensor: torch.Tensor, dtype: torch.dtype, where: str) -> torch.Tensor:
    """The tensor in the dtype of the model. Integers are converted to another width if each value fits.

    Raises:
        InputError: The dtypes differ in another way than the width of integers, or a value does not fit.
    """
    if tensor.dtype is dtype:
        return tensor
    if tensor.dtype in _INTEGERS and dtype in _INTEGERS:
        converted = tensor.to(dtype)
        wide = torch.int64
        # A value of uint64 beyond int64 becomes negative in `wide`, and so differs in sign from an unsigned original.
        if torch.equal(converted.to(wide), tensor.to(wide)) and not _changes_sign(tensor, converted):
            return converted
        raise InputError(
            f"a value does not fit into {NAMES[dtype]}", where=where, hint="pass ids that lie inside the model's tables"
        )
    raise InputError(
        f"expected datatype {NAMES[dtype]}, got {NAMES[tensor.dtype]}", where=where, hint=f"pass {NAMES[dtype]} values"
    )


def _changes_sign(before: torch.Tensor, after: torch.Tensor) -> bool:
    """Whether a conversion between a signed and an unsigned dtype changed the sign of a value."""
    if before.dtype.is_signed == after.dtype.is_signed:
        return False
    signed = before if before.dtype.is_signed else after
    return bool((signed < 0).any())
