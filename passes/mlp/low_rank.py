"""Matrices of low rank that are close to a weight, by singular values.

    W ~ left right,   left [N, r], right [r, K]

Plain: the least squared error of the weight (Eckart and Young 1936). With the second moments G = X^T X of the inputs, G = L L^T: the least
squared error of the products X W^T, by the truncated singular values of W L (Wang et al. 2024, SVD-LLM, section 3.2).
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

#: Added to the second moments, as a share of their mean: directions that the calibration data does not show keep some weight.
_RIDGE = 1e-4


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """The singular values of a weight, from which factors of any rank follow.

    Attributes:
        left: [N, m], orthonormal columns.
        values: [m], falling.
        right: [m, K].
    """

    left: Tensor
    values: Tensor
    right: Tensor

    def rank_of(self, energy: float) -> int:
        """The least rank that keeps a share of the squared singular values."""
        squares = self.values.square().cumsum(0)
        if not float(squares[-1]):
            return 1
        return int((squares < energy * squares[-1]).sum()) + 1

    def lost(self, rank: int) -> float:
        """The share of the squared singular values that factors of a rank lack."""
        squares = self.values.square()
        return float(squares[rank:].sum() / squares.sum().clamp(min=torch.finfo(squares.dtype).tiny))

    def factors(self, rank: int) -> tuple[Tensor, Tensor]:
        """left [N, r] and right [r, K], each with the root of the singular values, in float64."""
        root = self.values[:rank].sqrt()
        return self.left[:, :rank] * root, root[:, None] * self.right[:rank]


def spectrum(weight: Tensor, moments: Tensor | None = None) -> Spectrum:
    """The singular values of a weight.

    Args:
        weight: [N, K], finite.
        moments: Second moments of the inputs, float64 [K, K]; None for the error of the weight itself.
    """
    exact = weight.detach().double()
    if moments is None:
        left, values, right = torch.linalg.svd(exact, full_matrices=False)
        return Spectrum(left, values, right)
    mean = float(moments.diagonal().mean())
    ridge = (_RIDGE * mean if mean > 0 else 1.0) * torch.eye(len(moments), dtype=torch.float64)
    root = torch.linalg.cholesky(moments + ridge)
    left, values, right = torch.linalg.svd(exact @ root, full_matrices=False)
    return Spectrum(left, values, torch.linalg.solve_triangular(root, right, upper=False, left=False))
