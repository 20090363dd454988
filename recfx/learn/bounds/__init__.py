"""Bounds: the lower and upper ends of a quantiser's grid. One family of bounds per file."""

from __future__ import annotations

from typing import Any

from recfx.errors import InputError
from recfx.learn.bounds.base import BEST_SIGMAS, Bounds, RememberedBounds
from recfx.learn.bounds.centred import CentredRowBounds
from recfx.learn.bounds.learned import LearnedBounds
from recfx.learn.bounds.moving import MovingBounds
from recfx.learn.bounds.per_row import PerRowBounds

#: Bounds by their names in settings and on command lines, with a description of each.
BOUNDS = {
    "learned": "parameters, set from the first batch",
    "ema-minmax": "moving averages of each batch's extremes",
    "ema-percentile": "moving averages of percentiles of each batch",
    "sigma": "moving averages of +-k standard deviations",
    "per-row": "per row",
    "centred-row": "per row, about a moving average of the mean row",
    "per-dimension": "moving averages of a statistic of each column",
}


def make_bounds(name: str, bits: int, dim: int | None = None, **options: Any) -> Bounds:
    """Builds bounds by name.

    Args:
        name: One of `BOUNDS`.
        bits: Bits of the quantiser.
        dim: Columns of the table; "per-dimension" and "centred-row" need it, and "learned" needs it with the option
            `per_dimension=True`.
        options: Further arguments of the class.

    Raises:
        InputError: An unknown name, or options that do not fit.
    """
    per_dimension = bool(options.pop("per_dimension", name == "per-dimension"))
    if dim is None and (per_dimension or name == "centred-row"):
        raise InputError(f"{name} bounds need the number of columns", where="make_bounds", hint="give dim=")
    sizes: dict[str, Any] = {"dim": dim} if per_dimension else {}
    if name == "learned":
        return LearnedBounds(bits, **sizes, **options)
    if name == "per-row":
        return PerRowBounds(bits, **options)
    if name == "centred-row" and dim is not None:
        return CentredRowBounds(bits, dim, **options)
    if name == "per-dimension":
        return MovingBounds(bits, **sizes, **options)
    statistics = {"ema-minmax": "minmax", "ema-percentile": "percentile", "sigma": "sigma"}
    if name not in statistics:
        raise InputError(f"the bounds {name!r} are unknown", where="make_bounds", hint=f"one of {', '.join(BOUNDS)}")
    return MovingBounds(bits, statistics[name], **sizes, **options)  # type: ignore[arg-type]


__all__ = [
    "BEST_SIGMAS",
    "BOUNDS",
    "Bounds",
    "CentredRowBounds",
    "LearnedBounds",
    "MovingBounds",
    "PerRowBounds",
    "RememberedBounds",
    "make_bounds",
]
