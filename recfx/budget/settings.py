"""`Budget`: how much of a metric may be lost."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from recfx.errors import InputError

#: Evaluations that a budget needs at least: the user's model twice, one composition, and both models for the certificate.
LEAST_EVALUATIONS = 5
#: What a budget may prefer.
PREFERRED = ("both", "bytes", "time")
#: What a budget may compress: the widths of tables, their cold rows, the widths of layers, their ranks, and channels.
KINDS = ("tables", "rows", "layers", "ranks", "channels")


@dataclasses.dataclass(frozen=True)
class Budget:
    """How much of a metric a compressed model may lose.

    Attributes:
        max_drop: The largest drop of the metric, 0 or more.
        confidence: The confidence of the certificate. The budget is met if the whole interval of the drop is inside it, so that a model
            whose true drop is larger is accepted with a probability of at most about (1 - confidence) / 2. Two certificates share that
            probability: if the first does not hold, a safer composition gets the second one.
        evaluations: How often a model may be measured, all counted: the user's model, compositions, and the certificate.
        prefer: What is saved inside the budget: "bytes", "time", or "both", the sum of the shares of both that are saved.
        kinds: What may be compressed; ranks go with layers.

    Raises:
        InputError: A value is out of range.
    """

    max_drop: float
    confidence: float = 0.95
    evaluations: int = 12
    prefer: Literal["both", "bytes", "time"] = "both"
    kinds: tuple[str, ...] = KINDS

    def __post_init__(self) -> None:
        if not 0 <= self.max_drop < math.inf:
            raise InputError(
                f"a budget cannot have max_drop={self.max_drop}",
                hint="give the largest drop of the metric that you accept: 0 or a positive number such as 1e-3",
            )
        if not 0 < self.confidence < 1:
            raise InputError(
                f"a budget cannot have confidence={self.confidence}", hint="give a number between 0 and 1, such as 0.95"
            )
        if self.evaluations < LEAST_EVALUATIONS:
            raise InputError(
                f"a budget cannot have evaluations={self.evaluations}",
                hint=f"give {LEAST_EVALUATIONS} or more: your model twice, one composition, and both for the certificate",
            )
        if self.prefer not in PREFERRED:
            raise InputError(f"a budget cannot have prefer={self.prefer!r}", hint=f"use one of {', '.join(PREFERRED)}")
        if not self.kinds or not {*self.kinds} <= {*KINDS} or ("ranks" in self.kinds and "layers" not in self.kinds):
            raise InputError(
                f"a budget cannot have kinds={self.kinds!r}",
                hint=f"give some of {', '.join(KINDS)}; a layer of low rank has fewer bits as well, so ranks go with layers",
            )
