"""Rounding trained embeddings without training again: one method per file."""

from __future__ import annotations

import torch
from torch import Tensor

from recfx.errors import InputError
from recfx.learn.codes import QuantizedTable, check_bits
from recfx.learn.post_training.rabitq import RaBitQ
from recfx.learn.post_training.refinement import refine_signs
from recfx.learn.post_training.rotation import itq_rotation, random_rotation, rotate_and_round
from recfx.learn.post_training.rows import centred_rows, minmax_rows, round_rows, scaled_rows, sign_rows

#: Methods that give codes for both users and items, with a description of each.
METHODS = {
    "rows": "signs with a scale per row at 1 bit, levels about zero at 2, between a row's extremes at more",
    "centred": "as rows, after subtraction of the mean row",
    "rotation": "a random rotation, then as rows",
    "itq": "a rotation fitted to the signs of users and items, then as rows",
}


def round_tables(
    method: str, users: Tensor, items: Tensor, bits: int = 1, *, seed: int = 0
) -> tuple[QuantizedTable, QuantizedTable]:
    """Rounds trained users [U, d] and items [I, d].

    Args:
        method: One of `METHODS`.
        users: Floating point [U, d].
        items: Floating point [I, d].
        bits: 1, 2, 4 or 8.
        seed: The seed of the rotation.

    Raises:
        InputError: The method or the bits are unknown, the numbers of columns differ, or a table holds NaN or
            infinities.
    """
    check_bits(bits, "round_tables")
    if method == "rows":
        return round_rows(users, bits), round_rows(items, bits)
    if method == "centred":
        return centred_rows(users, bits), centred_rows(items, bits)
    if method == "rotation":
        return rotate_and_round(users, items, random_rotation(users.shape[1], seed), bits)
    if method == "itq":
        return rotate_and_round(users, items, _fitted(users, items, seed), bits)
    raise InputError(f"the method {method!r} is unknown", where="round_tables", hint=f"one of {', '.join(METHODS)}")


def _fitted(users: Tensor, items: Tensor, seed: int) -> Tensor:
    if users.shape[1:] != items.shape[1:]:
        raise InputError(
            f"users {list(users.shape)} and items {list(items.shape)} differ in columns",
            where="itq",
            hint="pass embeddings of users and items with equal numbers of columns",
        )
    return itq_rotation(torch.cat([users.detach(), items.detach().to(users)]), seed=seed)


__all__ = [
    "METHODS",
    "RaBitQ",
    "centred_rows",
    "itq_rotation",
    "minmax_rows",
    "random_rotation",
    "refine_signs",
    "rotate_and_round",
    "round_rows",
    "round_tables",
    "scaled_rows",
    "sign_rows",
]
