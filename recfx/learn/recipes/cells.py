"""The cells of the table: trained or rounded models, with their bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from recfx.errors import InputError
from recfx.learn import BITS, BOUNDS, ESTIMATORS
from recfx.learn.post_training import METHODS

Kind = Literal["full", "rounded", "trained"]

_SIGNS_ONLY = ("itq", "rotation")
_WIDE = 8


@dataclass(frozen=True)
class Cell:
    """One row of the table.

    Attributes:
        kind: Whether the model is in full precision, rounded after training, or trained with quantisers.
        bits: Bits of a value of an item.
        method: A method of `recfx.learn.post_training` or an estimator of `recfx.learn`; "fp32" in full precision.
        bounds: Bounds of the quantisers of a trained model, "" otherwise.
        user_bits: Bits of a value of a user, which may differ from those of items.
        wide: Whether the model has the recipe's greater width.
        refined: Whether signs of users were turned afterwards, see `recfx.learn.post_training.refine_signs`.
    """

    kind: Kind
    bits: int
    method: str
    bounds: str = ""
    user_bits: int = 0
    wide: bool = False
    refined: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "user_bits", self.user_bits or self.bits)

    @property
    def name(self) -> str:
        """Names the cell in files, such as `trained-gste-centred-row-1`."""
        widths = str(self.bits) if self.user_bits == self.bits else f"{self.bits}-users-{self.user_bits}"
        further = "wide" * self.wide, "refined" * self.refined
        return "-".join(part for part in (self.kind, self.method, self.bounds, widths, *further) if part)

    @property
    def label(self) -> str:
        """Names the cell for readers."""
        how = {"full": "full precision", "rounded": f"afterwards: {self.method}", "trained": f"trained: {self.method}"}
        return ", ".join(part for part in (how[self.kind], self.bounds, "users refined" * self.refined) if part)


#: The full-precision model that the other cells start from or round.
FULL = Cell("full", 32, "fp32")

#: The wider full-precision model, whose first items students learn, and from which wide students start.
WIDE = Cell("full", 32, "fp32", wide=True)


def cells(
    bits: Sequence[int] = BITS,
    estimators: Sequence[str] = ("ste", "gste"),
    bounds: Sequence[str] = ("per-row", "centred-row"),
    methods: Sequence[str] = ("rows", "centred", "itq"),
    *,
    wide: bool = False,
    refined: bool = False,
) -> list[Cell]:
    """All cells in the order of the run, the most interesting ones first.

    At 1 bit there are further cells with users in 8 bits, the width to which searches over codes round users. Methods
    that differ from `rows` only in their signs (rotations) run at 1 bit; the others run at every width.

    Args:
        bits: Some of 1, 2, 4, 8.
        estimators: Names of `recfx.learn.ESTIMATORS`.
        bounds: Names of `recfx.learn.BOUNDS`.
        methods: Names of `recfx.learn.post_training.METHODS`.
        wide: Whether there is a wider model; its students have 1 bit.
        refined: Whether there are further cells in which users of 1 bit are refined.

    Raises:
        InputError: A name or a width is unknown.
    """
    for asked, known in ((bits, BITS), (estimators, ESTIMATORS), (bounds, BOUNDS), (methods, METHODS)):
        unknown = [str(one) for one in asked if one not in known]
        if unknown:
            raise InputError(
                f"unknown: {', '.join(unknown)}", where="recfx bench", hint=f"one of {', '.join(map(str, known))}"
            )
    found = [FULL]
    steps: tuple[tuple[Kind, Sequence[str]], ...] = (("rounded", methods), ("trained", estimators))
    for kind, names in steps:
        if kind == "trained" and wide:
            found.append(WIDE)  # placed directly before the students that need it, because it takes longest
        for width in sorted(set(bits)):
            for limit in bounds if kind == "trained" else ("",):
                chosen = [name for name in names if width == 1 or name not in _SIGNS_ONLY]
                for users in (width, _WIDE) if width == 1 else (width,):
                    found += [Cell(kind, width, name, limit, users) for name in chosen]
    if wide and 1 in bits:
        students = [cell for cell in found if cell.kind == "trained" and cell.bits == 1]
        found += [replace(cell, wide=True) for cell in students]
    if not refined:
        return found
    return [
        one for cell in found for one in (cell, replace(cell, refined=True)) if cell.user_bits == 1 or not one.refined
    ]
