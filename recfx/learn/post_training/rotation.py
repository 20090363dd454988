"""Rounds users and items after one rotation for both."""

from __future__ import annotations

from torch import Tensor

from recfx.errors import InputError
from recfx.formats.rotations import itq_rotation, random_rotation
from recfx.learn.codes import QuantizedTable
from recfx.learn.post_training.rows import round_rows


def rotate_and_round(
    users: Tensor, items: Tensor, rotation: Tensor, bits: int = 1
) -> tuple[QuantizedTable, QuantizedTable]:
    """Rounds users and items after one rotation for both, which preserves dot products.

    Args:
        users: Floating point [U, d].
        items: Floating point [I, d].
        rotation: Orthogonal [d, d].
        bits: See `recfx.learn.post_training.round_rows`.

    Raises:
        InputError: The shapes do not fit each other, a table holds NaN or infinities, or the bits are unknown.
    """
    if not users.shape[1] == items.shape[1] == len(rotation) == rotation.shape[1]:
        raise InputError(
            f"expected [U, d], [I, d] and [d, d], got {list(users.shape)}, {list(items.shape)}, {list(rotation.shape)}",
            where="rotate_and_round",
            hint="pass embeddings of users and items with equal numbers of columns",
        )
    turned = [table.detach() @ rotation.to(table) for table in (users, items)]
    return round_rows(turned[0], bits), round_rows(turned[1], bits)


__all__ = ["itq_rotation", "random_rotation", "rotate_and_round"]
