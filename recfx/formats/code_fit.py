"""How the rows of a trained table become codes: signs, levels between a row's extremes, or the grid they lie on already."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from recfx.formats.code_rows import Codes
from recfx.formats.rotations import check_finite

_ROUNDINGS = (
    8 * torch.finfo(torch.float32).eps
)  # of the largest value: a product, a sum, and the difference of two such values
_GREATEST_COMMON_STEPS = 12  # of Euclid's algorithm on gaps of at most 255 steps


def sign_codes(table: Tensor) -> Codes:
    """Each row as its signs times its mean magnitude, the scale of least squared error; zero counts as negative.

    With s the scale, what is lost has the length `sqrt(|x|^2 - d s^2)`.

    Args:
        table: Floating point [n, d].

    Raises:
        InputError: It is no floating-point matrix with columns, or holds NaN or infinities.
    """
    return _signs(table, lambda rows: rows.abs().mean(1, keepdim=True))


def unbiased_sign_codes(table: Tensor) -> Codes:
    """Each row as its signs times `|x|^2 / sum_j |x_j|`: over random rotations, dot products keep their expectation.

    This is RaBitQ's estimator about a centre of zero (Gao and Long 2024, equation 4). With `a = sum_j |x_j| / (|x| sqrt(d))`, what is lost
    has the length `|x| sqrt(1 / a^2 - 1)`.

    Args:
        table: Floating point [n, d], rotated.

    Raises:
        InputError: As for `sign_codes`.
    """

    def scale(rows: Tensor) -> Tensor:
        magnitudes = rows.abs().sum(1, keepdim=True)
        return torch.where(magnitudes > 0, rows.square().sum(1, keepdim=True) / magnitudes, 0.0)

    return _signs(table, scale)


def _signs(table: Tensor, scale_of: Callable[[Tensor], Tensor]) -> Codes:
    check_finite(table, "sign codes")
    scale = scale_of(table.detach().double()).float()
    return Codes((table.detach() > 0).to(torch.uint8), -scale, 2 * scale, 1)


def minmax_codes(table: Tensor, bits: int) -> Codes:
    """Each row on 2**bits levels from its smallest to its largest value; no value is further off than half a step.

    Args:
        table: Floating point [n, d].
        bits: 8, 4, 2 or 1.

    Raises:
        InputError: As for `sign_codes`.
    """
    check_finite(table, "min-max codes")
    rows, most = table.detach().double(), (1 << bits) - 1
    lower = rows.amin(1, keepdim=True).float()
    step = ((rows.amax(1, keepdim=True) - lower) / most).float()
    codes = ((rows - lower) / torch.where(step > 0, step, 1.0)).round().clamp(0, most)
    return Codes(codes.to(torch.uint8), lower, step, bits)


def find_codes(table: Tensor, bits: int) -> Codes | None:
    """The codes of a table that lies on a grid already, as trained with a quantiser; None where it does not.

    A row's step is the greatest common divisor of the gaps between its values. Codes are those trained, up to their first one: a row that
    never takes the lowest level counts from the lowest one it takes. Values come back to within a few roundings of float32.

    Args:
        table: Floating point [n, d], finite.
        bits: 8, 4, 2 or 1: how many bits the codes may have.
    """
    most = (1 << bits) - 1
    rows = table.detach().double()
    if not rows.numel():
        return None
    lower = rows.amin(1, keepdim=True)
    slack = rows.abs().amax(1, keepdim=True) * _ROUNDINGS
    step = _common_step(rows, slack, most)
    if step is None:
        return None
    codes = ((rows - lower) / step).round()
    highest = codes.amax(1, keepdim=True)
    if bool((highest > most).any()):
        return None
    step = torch.where(highest > 0, (rows.amax(1, keepdim=True) - lower) / highest.clamp(min=1), 0.0)
    if bool(((lower + step * codes - rows).abs() > slack).any()):
        return None
    return Codes(codes.to(torch.uint8), lower.float(), step.float(), bits)


def _common_step(rows: Tensor, slack: Tensor, most: int) -> Tensor | None:
    """The greatest common divisor of each row's gaps, [n, 1]; 1 for rows of one value; None where a row has more than `most` steps."""
    gaps = rows.sort(1).values.diff(dim=1)
    span = gaps.sum(1, keepdim=True) + 0.0
    step = torch.full_like(slack, torch.inf)
    for _ in range(_GREATEST_COMMON_STEPS):
        rest = torch.where(gaps > most * slack, gaps, torch.inf)
        found = rest.amin(1, keepdim=True) if gaps.shape[1] else step
        if not bool(found.isfinite().any()):
            break
        step = torch.minimum(step, found)
        if bool((span > (most + 0.5) * step).any()):
            return None
        divisor = torch.where(step.isfinite(), step, 1.0)
        gaps = (gaps - (gaps / divisor).round() * divisor).abs()
    return torch.where(step.isfinite(), step, 1.0)
