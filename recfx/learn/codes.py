"""A table of embeddings as integer codes: the output of a quantiser, which retrieval stores and scores."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recfx.errors import InputError

#: The widths a learned quantiser may have.
BITS = (1, 2, 4, 8)

_CONSTANT_BYTES = 4  # bytes of a lower bound or a step in float32
_ROUNDING = 1e-6  # relative tolerance of a symmetric lower bound


@dataclass(frozen=True)
class QuantizedTable:
    """Codes and the affine map back to embeddings: x_hat = centre + lower + step * codes.

    Attributes:
        codes: uint8 [n, d], each in [0, 2**bits - 1].
        lower: Floating point, the value of code 0: [] for the whole table, [n, 1] per row, [1, d] per dimension, or [n,
            d] for rows that are divided into groups of columns.
        step: The difference between neighbouring codes, of the same shape, never negative.
        bits: Bits of a code.
        centre: Floating point [1, d], added to every row; None: zero.

    Raises:
        InputError: Codes are not a uint8 matrix or do not fit into the bits, or constants do not broadcast to them.
    """

    codes: Tensor
    lower: Tensor
    step: Tensor
    bits: int
    centre: Tensor | None = None

    def __post_init__(self) -> None:
        check_bits(self.bits, "QuantizedTable")
        if self.codes.dtype != torch.uint8 or self.codes.ndim != 2:
            raise InputError(
                f"codes must be uint8 [n, d], got {self.codes.dtype} {list(self.codes.shape)}",
                hint="pass codes of this dtype and shape",
            )
        if self.codes.numel() and int(self.codes.max()) >= 1 << self.bits:
            raise InputError(
                f"code {int(self.codes.max())} does not fit into {self.bits} bits",
                hint="pass more bits, or codes below 2 to the power of bits",
            )
        for name in ("lower", "step"):
            shape = getattr(self, name).shape
            fits = len(shape) <= 2 and all(
                size in (1, whole) for size, whole in zip(shape[::-1], self.codes.shape[::-1], strict=False)
            )
            if not fits:
                raise InputError(
                    f"{name} {list(shape)} does not broadcast to codes {list(self.codes.shape)}",
                    hint="pass one value for the table, for each row, or for each column",
                )
        if self.centre is not None and self.centre.shape != (1, self.codes.shape[1]):
            raise InputError(
                f"a centre {list(self.centre.shape)} does not fit codes {list(self.codes.shape)}",
                hint="pass one value for the table, for each row, or for each column",
            )

    def dequantize(self) -> Tensor:
        """Returns the embeddings of the codes, [n, d], in the type of the constants."""
        found = self.lower + self.step * self.codes.to(self.step.dtype)
        return found if self.centre is None else found + self.centre

    @property
    def symmetric(self) -> bool:
        """Whether the levels are symmetric about zero, or about the centre, so that the step determines the lower
        bound."""
        below = self.step * (((1 << self.bits) - 1) / 2)
        return bool(((self.lower + below).abs() <= _ROUNDING * below).all())

    def packed_bytes(self) -> int:
        """Returns the bytes of the packed codes with their constants in float32; rows are padded to whole bytes."""
        rows, dim = self.codes.shape
        constants = self.step.numel() * (1 if self.symmetric else 2)
        constants += 0 if self.centre is None else dim
        return rows * -(-dim * self.bits // 8) + _CONSTANT_BYTES * constants


def check_bits(bits: int, where: str) -> None:
    """Checks that quantisers support a number of bits.

    Raises:
        InputError: They do not.
    """
    if bits not in BITS:
        raise InputError(
            f"quantisers have 1, 2, 4 or 8 bits, not {bits}", where=where, hint="pass one of these numbers of bits"
        )
