"""One-bit codes with an unbiased estimate of dot products and its error bound.

RaBitQ: Gao and Long 2024, "RaBitQ: Quantizing High-Dimensional Vectors with a Theoretical Error Bound for Approximate
Nearest Neighbor Search". With a centre c, o = (x - c) / ||x - c||, a random rotation P, o' = P o and the code
o_bar = sign(o') / sqrt(D):

    <x, q> = <c, q> + ||x - c|| <o, q>,        <o, q> ~ <o_bar, P q> / <o_bar, o'>

which is unbiased over P. With a = <o_bar, o'> the error of <o, q> exceeds

    ||q|| sqrt((1 - a^2) / a^2) eps / sqrt(D - 1)

with a probability that falls as exp(-c0 eps^2); at eps = 1.9 about one estimate in twenty does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from recfx.errors import InputError
from recfx.formats.rotations import check_finite, random_rotation
from recfx.learn.codes import QuantizedTable


@dataclass(frozen=True)
class RaBitQ:
    """Items as signs of their rotated directions.

    Attributes:
        codes: uint8 [n, D], 0 or 1.
        norms: float32 [n], the distances ||x - c||.
        alignments: float32 [n], <o_bar, o'>, about 0.8; 1 for items at the centre.
        centre: float32 [D], c.
        rotation: float32 [D, D], P^T: queries are rotated as `queries @ rotation`.
    """

    codes: Tensor
    norms: Tensor
    alignments: Tensor
    centre: Tensor
    rotation: Tensor

    @staticmethod
    def encode(items: Tensor, *, centre: Tensor | None = None, seed: int = 0) -> RaBitQ:
        """Rounds items.

        Args:
            items: Floating point [n, D].
            centre: [D]; None: the items' mean.
            seed: The seed of the rotation.

        Raises:
            InputError: The items are not a floating-point matrix with columns, hold NaN or infinities, or the centre does
                not fit them.
        """
        check_finite(items, "RaBitQ.encode")
        values = items.detach().float()
        dim = values.shape[1]
        if centre is None:
            centre = values.mean(0) if len(values) else values.new_zeros(dim)
        if centre.shape != (dim,):
            raise InputError(
                f"the centre must be [{dim}], got {list(centre.shape)}",
                where="RaBitQ.encode",
                hint="pass one value for the table, for each row, or for each column",
            )
        rotation = random_rotation(dim, seed).to(values.device)
        apart = values - centre.float()
        norms = apart.norm(dim=1)
        turned = torch.nn.functional.normalize(apart, dim=1) @ rotation
        alignments = torch.where(norms > 0, turned.abs().sum(1) / math.sqrt(dim), 1.0)
        return RaBitQ((turned > 0).to(torch.uint8), norms, alignments, centre.float(), rotation)

    def table(self) -> QuantizedTable:
        """The codes as an affine table y with <x, q> ~ <c, q> + <y, q @ rotation>."""
        scale = (self.norms / (self.alignments * math.sqrt(self.codes.shape[1]))).unsqueeze(1)
        return QuantizedTable(self.codes, -scale, 2 * scale, 1)

    def scores(self, queries: Tensor) -> Tensor:
        """Estimates of the dot products with queries [Q, D]: [Q, n]."""
        queries = self._checked(queries)
        return (queries @ self.centre).unsqueeze(1) + (queries @ self.rotation) @ self.table().dequantize().T

    def bounds(self, queries: Tensor, eps: float = 1.9) -> Tensor:
        """The error bound of `scores`, [Q, n]; the module's docstring gives the probability that an error exceeds it.

        Args:
            queries: [Q, D].
            eps: The paper's epsilon_0.
        """
        queries = self._checked(queries)
        lost = (1 / self.alignments.double().square() - 1).clamp(min=0).sqrt().float()
        freedom = math.sqrt(max(self.codes.shape[1] - 1, 1))
        lengths: Tensor = queries.norm(dim=1, keepdim=True)
        return lengths * (self.norms * lost * eps / freedom)

    def _checked(self, queries: Tensor) -> Tensor:
        check_finite(queries, "RaBitQ")
        if queries.shape[1] != self.codes.shape[1]:
            raise InputError(
                f"queries must be [Q, {self.codes.shape[1]}], got {list(queries.shape)}",
                where="RaBitQ",
                hint="pass queries with as many columns as the codes",
            )
        return queries.detach().float()
