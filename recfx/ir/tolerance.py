"""The allowed error of a result that was computed in another order than the original."""

from __future__ import annotations

from collections.abc import Callable

import torch

from recfx.errors import VerificationError

#: The allowed error against float64 of a re-associated result, as a multiple of the original's error (plus a few last bits).
REASSOC_FACTOR = 8.0
_LAST_BITS = 16.0
#: The share of the allowed last bits that a distance may have without the float64 result, so that no rounding of the sums above matters.
_SURELY = 0.99


def check_reassociated(
    want: torch.Tensor,
    got: torch.Tensor,
    truth: torch.Tensor,
    place: str,
    *,
    slack: float = 1.0,
    by_row: bool = False,
    spread: Callable[[], torch.Tensor] | None = None,
    noise: bool = False,
) -> None:
    """Compares a result with the original's result, given the float64 result.

    The allowed error is `REASSOC_FACTOR` times the original's error plus a few last bits. If the error is larger, the allowed error becomes
    `REASSOC_FACTOR` times the change that rounding can make in the original, which depends on the magnitude of the summands.

    Args:
        want: The original's result.
        got: The output to check, of the same shape and type.
        truth: The original's result in float64.
        place: The name of the comparison, for the error.
        slack: Factor of the allowed error.
        by_row: Judge each row by its own error and magnitude, so that a row of huge numbers does not raise the limit of other rows.
        spread: Computes the change that rounding can make in each element.
        noise: Whether the original's result may be mere rounding error, as on rows of huge numbers and infinities. Elements at which it is
            far from the float64 result, or at which only one of them is finite, are skipped then.

    Raises:
        VerificationError: The error is too large, or the result is not finite where the original is.
    """
    if noise:
        meant = _is_meant(want, truth)
        want, got, truth = (torch.where(meant, t, torch.zeros_like(t)) for t in (want, got, truth))
    if bool((want.isfinite() & ~got.isfinite()).any()):
        raise VerificationError("infinities or NaNs appeared", where=place)
    known = truth.to(want.dtype).isfinite()
    if bool((~want.isfinite() & ~known & got.isfinite()).any()):
        raise VerificationError("infinities or NaNs went away", where=place)
    # Where the original overflows and float64 does not, a finite result is compared with float64.
    judged = got.isfinite() & (known | want.isfinite())
    exact = torch.where(known, truth.double(), want.double())
    error = (got.double() - exact).abs().where(judged, 0.0)
    own = (want.double() - exact).abs().where(judged & want.isfinite(), 0.0)
    last_bits = _LAST_BITS * torch.finfo(want.dtype).eps * exact.abs().where(judged, 0.0)
    # A kernel may round a subnormal number to 0 or to the smallest normal number.
    floor = _LAST_BITS * torch.finfo(want.dtype).tiny
    allowed = slack * (REASSOC_FACTOR * largest(own, by_row) + largest(last_bits, by_row) + floor)
    if not bool((error > allowed).any()):
        return
    if spread is not None:
        allowed = torch.maximum(allowed, slack * REASSOC_FACTOR * largest(spread().where(judged, 0.0), by_row))
    over = error - allowed
    if bool((over > 0).any()):
        at = int(over.argmax())
        raise VerificationError(
            f"the error against float64 is {float(error.reshape(-1)[at]):.3g}, more than the "
            f"{float(allowed.expand(error.shape).reshape(-1)[at]):.3g} that a reordering of sums explains",
            where=place,
        )


def is_within_last_bits(want: torch.Tensor, got: torch.Tensor, *, slack: float, by_row: bool) -> bool:
    """Whether two finite results are so close that `check_reassociated` accepts the second one, whatever the float64 result is.

    The error of `got` is at most its distance to `want` and the original's own error. The allowed error is several times the own error, and
    the last bits of the largest exact number, which is at least the largest number of `want` less the own error. So a distance of the last
    bits of `want` is always allowed, and the float64 run, which takes longer than all others together, is not needed.

    Args:
        want: The original's result.
        got: The output to check, of the same shape and type.
        slack: See `check_reassociated`.
        by_row: Likewise.
    """
    if not bool(want.isfinite().all() & got.isfinite().all()):
        return False
    wide = want.double()
    last_bits = _LAST_BITS * torch.finfo(want.dtype).eps * largest(wide.abs(), by_row)
    return bool(((got.double() - wide).abs() <= _SURELY * slack * last_bits).all())


def _is_meant(want: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Where the original's result agrees with the float64 result to one percent."""
    same = (want == truth.to(want.dtype)) | (want.isnan() & truth.isnan())
    return same | (truth.isfinite() & ((want.double() - truth.double()).abs() <= 1e-2 * truth.double().abs()))


def check_nan(want: torch.Tensor, got: torch.Tensor, truth: torch.Tensor, place: str) -> None:
    """Raises `VerificationError` when the result has a number where the original and float64 have NaN."""
    if bool((want.isnan() & truth.isnan() & ~got.isnan()).any()):
        raise VerificationError("a NaN went away", where=place)


def largest(values: torch.Tensor, by_row: bool) -> torch.Tensor:
    """The largest value of each row, broadcastable to `values`; without `by_row`, of all values."""
    if not values.numel():
        return values.new_zeros(())
    if not by_row or values.ndim == 0:
        return values.amax()
    if values.ndim == 1:
        return values
    return values.amax(tuple(range(1, values.ndim)), keepdim=True)
