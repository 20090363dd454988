"""How many candidates a request has: the distributions of DeepRecSys (ISCA 2020) and MLPerf, a constant, or recorded sizes."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import numpy as np

from recfx.errors import InputError

#: The largest query of DeepRecSys.
MOST = 1024
Rows = np.ndarray[Any, np.dtype[np.int64]]


@dataclasses.dataclass(frozen=True)
class QuerySizes:
    """A distribution of candidates per request.

    Attributes:
        kind: "fixed", "normal", "lognormal", "uniform" or "recorded".
        values: Of "fixed" the rows; of "normal" mean and standard deviation; of "lognormal" mean and standard deviation of the logarithm;
            of "uniform" the smallest and the largest rows; of "recorded" rows that are drawn with equal chance.
        most: Larger numbers are cut to it; so are numbers below 1 to 1.
    """

    kind: str
    values: tuple[float, ...]
    most: int = MOST

    #: Text -> distribution.
    NAMED: ClassVar[dict[str, tuple[str, tuple[float, ...]]]] = {
        "deeprecsys": ("normal", (165.0, 16.0)),
        "deeprecsys-large": ("normal", (256.0, 32.0)),
        "deeprecsys-lognormal": ("lognormal", (5.1, 0.2)),
        "mlperf": ("uniform", (100.0, 700.0)),
    }
    _NUMBERS: ClassVar[dict[str, int]] = {"fixed": 1, "normal": 2, "lognormal": 2, "uniform": 2}

    def __post_init__(self) -> None:
        count = len(self.values)
        if self.kind not in (*self._NUMBERS, "recorded") or count != self._NUMBERS.get(self.kind, max(count, 1)):
            raise InputError(
                f"no distribution {self.kind!r} of {count} numbers",
                hint="pass fixed (1 number), normal, lognormal or uniform (2 numbers), or recorded",
            )
        if not all(math.isfinite(value) and value >= 0.0 for value in self.values) or self.most < 1:
            raise InputError(f"sizes {self.values} up to {self.most}", hint="pass finite numbers of at least 0")
        if self.kind == "uniform" and self.values[0] > self.values[1]:
            raise InputError(
                f"uniform sizes from {self.values[0]:g} to {self.values[1]:g}", hint="pass the smaller one first"
            )

    @classmethod
    def of(cls, text: str) -> QuerySizes:
        """The distribution of a text: a number, a name such as "deeprecsys", or a kind with numbers such as "normal:165,16".

        Raises:
            InputError: The text is none of these.
        """
        if text in cls.NAMED:
            return cls(*cls.NAMED[text])
        kind, _, numbers = text.rpartition(":")
        try:
            values = tuple(float(number) for number in numbers.split(","))
        except ValueError as error:
            known = ", ".join(cls.NAMED)
            raise InputError(
                f"sizes of queries {text!r}", hint=f"pass a number, normal:165,16 or one of {known}"
            ) from error
        return cls(kind or "fixed", values)

    @property
    def average(self) -> int:
        """Candidates of an average request, from 1,000 draws."""
        return max(round(float(self.draw(1000, np.random.default_rng(0)).mean())), 1)

    def draw(self, count: int, generator: np.random.Generator) -> Rows:
        """Candidates of some requests."""
        first, last = self.values[0], self.values[-1]
        drawn: Any
        if self.kind == "normal":
            drawn = generator.normal(first, last, count)
        elif self.kind == "lognormal":
            drawn = generator.lognormal(first, last, count)
        elif self.kind == "uniform":
            drawn = generator.integers(int(first), int(last) + 1, count)
        else:
            drawn = generator.choice(np.asarray(self.values), count)
        rows: Rows = np.clip(np.rint(drawn), 1, self.most).astype(np.int64)
        return rows
