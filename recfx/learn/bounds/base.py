"""The interface of bounds: the lower and upper ends of a quantiser's grid."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from recfx.errors import InputError

#: Bounds at +-k standard deviations that leave the least squared error on normally distributed values, by bits:
#: Max 1960, "Quantizing for Minimum Distortion", uniform levels.
BEST_SIGMAS = {1: 0.7979, 2: 1.4935, 4: 2.514, 8: 3.93}

#: Mean of |x| over the standard deviation of a normal distribution.
MEAN_ABS = 0.797885


class Bounds(nn.Module, ABC):
    """Gives lower and upper bounds for a block of embeddings [n, d], and may remember statistics of earlier blocks.

    Attributes:
        row_wise: Whether the bounds of a row depend on that row alone.
    """

    row_wise: ClassVar[bool] = False

    @property
    def centre(self) -> Tensor | None:
        """The row that is subtracted from every row before bounds and rounding, and added again, [1, d]; None without such a row."""
        return None

    def observe(self, x: Tensor) -> None:
        """Updates the statistics from a block of training embeddings [n, d], without gradient. The base class has no
        statistics."""

    @abstractmethod
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the lower and upper bounds for [n, d], each of shape [], [n, 1], [1, d] or [n, d]."""


class ObservingBounds(Bounds):
    """Bounds that come from observed blocks of embeddings.

    Args:
        dim: Number of columns, each with its own bounds; None: one pair of bounds for all values.

    Attributes:
        seen: bool [], whether a block was observed.

    Raises:
        InputError: No dimensions.
    """

    seen: Tensor

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        if dim is not None and dim < 1:
            raise InputError(
                f"bounds per dimension need at least one, got {dim}",
                where=type(self).__name__,
                hint="pass the number of columns of the table",
            )
        self.dim = dim
        self.register_buffer("seen", torch.zeros((), dtype=torch.bool))
        # A copy of `seen` in Python, so that steps on an accelerator need not wait for its value.
        self._known: bool | None = False

    @property
    def ready(self) -> bool:
        """Whether a block was observed."""
        if self._known is None:
            self._known = bool(self.seen)
        return self._known

    @torch.no_grad()
    def remember(self, *pairs: tuple[Tensor, Tensor]) -> None:
        """Writes new statistics, given as pairs of a buffer and its new content.

        Raises:
            InputError: The content is not finite.
        """
        if not all(bool(content.isfinite().all()) for _, content in pairs):
            raise InputError(
                "the embeddings to quantise hold NaN or infinities",
                where=type(self).__name__,
                hint="training diverged, or the table was damaged: look for the first step at which it happens",
            )
        for kept, content in pairs:
            kept.copy_(content)
        self.seen.fill_(True)
        self._known = True

    def require_ready(self, x: Tensor) -> None:
        """Checks that bounds for a block are known.

        Raises:
            InputError: No block was observed yet, or x has another number of columns.
        """
        if not self.ready and x.numel():
            raise InputError(
                "the bounds are not set yet", where=type(self).__name__, hint="train, or call observe(embeddings) first"
            )
        self.check_dim(x)

    def check_dim(self, x: Tensor) -> None:
        """Checks the columns of x.

        Raises:
            InputError: The number of columns differs from the number of bounds.
        """
        if self.dim is not None and x.shape[-1] != self.dim:
            raise InputError(
                f"bounds of {self.dim} dimensions cannot fit {list(x.shape)}",
                where=type(self).__name__,
                hint="make the quantiser with dim= of this table",
            )

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._known = None


class RememberedBounds(ObservingBounds):
    """Bounds that training sets and that stay fixed for later quantisation.

    Args:
        dim: Number of columns, each with its own bounds; None: one pair of bounds for all values.

    Attributes:
        lower: [] or [1, dim].
        upper: Of the same shape.

    Raises:
        InputError: No dimensions.
    """

    lower: Tensor
    upper: Tensor

    def __init__(self, dim: int | None = None) -> None:
        super().__init__(dim)
        shape = () if dim is None else (1, dim)
        self._place(torch.zeros(shape), torch.ones(shape))

    def _place(self, lower: Tensor, upper: Tensor) -> None:
        self.register_buffer("lower", lower)
        self.register_buffer("upper", upper)

    def set_bounds(self, lower: Tensor, upper: Tensor) -> None:
        """Sets the bounds.

        Raises:
            InputError: They are not finite.
        """
        self.remember((self.lower, lower), (self.upper, upper))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See `Bounds.forward`.

        Raises:
            InputError: No block was observed yet, or x has another number of columns.
        """
        self.require_ready(x)
        return self.lower, self.upper
