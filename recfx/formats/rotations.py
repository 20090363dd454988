"""Rotations before rounding: they keep every dot product and spread the error of signs over all columns.

ITQ: Gong et al. 2013, "Iterative Quantization: A Procrustean Approach to Learning Binary Codes".
"""

from __future__ import annotations

import torch
from torch import Tensor

from recfx.errors import InputError

_FIT_ROWS = 1 << 16  # rows that a rotation is fitted to; more rows hardly change it


def check_finite(table: Tensor, where: str) -> None:
    """Checks a table.

    Raises:
        InputError: The table is not a floating-point matrix with columns, or holds NaN or infinities.
    """
    if table.ndim != 2 or not table.is_floating_point() or not table.shape[1]:
        raise InputError(
            f"expected a floating-point [n, d], got {table.dtype} {list(table.shape)}",
            where=where,
            hint="convert it with .float(), and pass one row for each item",
        )
    wrong = ~table.isfinite().all(1)
    if bool(wrong.any()):
        raise InputError(
            f"row {int(wrong.nonzero()[0])} of the table holds NaN or infinities",
            where=where,
            hint="clean the table, or leave it in full precision",
        )


def random_rotation(dim: int, seed: int = 0) -> Tensor:
    """A rotation or reflection drawn uniformly, float32 [dim, dim] (Mezzadri 2007).

    Raises:
        InputError: `dim` is below 1.
    """
    if dim < 1:
        raise InputError(
            f"a rotation needs a dimension of at least 1, got {dim}",
            where="random_rotation",
            hint="pass the number of columns of the table",
        )
    normal = torch.randn(dim, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    q, r = torch.linalg.qr(normal)
    rotation: Tensor = q * r.diagonal().sign()
    return rotation.float()


def itq_rotation(table: Tensor, *, iterations: int = 50, seed: int = 0) -> Tensor:
    """The rotation R for which unit rows X R are close to their signs, by alternating minimisation.

    With B = sign(X R) the best R is the orthogonal Procrustes solution V U^T of B^T X = U S V^T. No step increases the
    squared error of B / sqrt(d). The search starts from a random rotation.

    Args:
        table: Floating point [n, d]; rows are scaled to unit length. Of more than 65,536 rows, evenly spaced ones are used.
        iterations: Steps.
        seed: The seed of the first rotation.

    Returns:
        float32 [d, d]; rotated rows are `table @ R`.

    Raises:
        InputError: The table is not a floating-point matrix with columns, or holds NaN or infinities.
    """
    check_finite(table, "itq_rotation")
    rows = table.detach()[:: max(1, len(table) // _FIT_ROWS)].double().cpu()
    unit = torch.nn.functional.normalize(rows, dim=1)
    rotation = random_rotation(table.shape[1], seed).double()
    for _ in range(iterations if len(rows) else 0):
        signs = torch.where(unit @ rotation > 0, 1.0, -1.0).double()
        u, _, vh = torch.linalg.svd(signs.T @ unit)
        rotation = vh.T @ u.T
    return rotation.float()
