"""`Judge`: measures compositions against the user's model, counts the evaluations, and checks that `evaluate` can be trusted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from recfx.budget.interval import Drop
from recfx.budget.measures import Measure
from recfx.budget.settings import Budget
from recfx.budget.untouched import Untouched
from recfx.errors import InputError, RecfxError

#: The part of the budget by which two evaluations of the user's model may differ.
_NOISE = 0.1


class Judge:
    """Measures compositions against the user's model.

    Args:
        measure: The measure.
        budget: The budget.
        model: The user's model.

    Attributes:
        evaluations: How often a model was measured so far.
        notices: What the reader should know about the measurement.
    """

    def __init__(self, measure: Measure, budget: Budget, model: nn.Module) -> None:
        self.measure, self.budget = measure, budget
        self._model = model
        self.evaluations = 0
        self.notices: list[str] = []
        self._before: Any = None
        self._reference: Any = None

    @property
    def left(self) -> int:
        """Evaluations that are left for compositions. One, or two with a part of its own, are kept for the certificate."""
        return self.budget.evaluations - self.evaluations - (2 if self.measure.parts else 1)

    @property
    def before(self) -> float:
        """The metric of the user's model on the rows for choices."""
        return self.measure.value(self._before, False)

    def begin(self) -> None:
        """Measures the user's model twice.

        Raises:
            InputError: `evaluate` fails, gives no number, changes the model, or gives two numbers.
            DataError: The data cannot be used.
        """
        state = Untouched(self._model)
        self._before = self._sample(self._model, certificate=False, whose="your model")
        state.require()
        again = self._sample(self._model, certificate=False, whose="your model")
        first, second = (self.measure.value(sample, False) for sample in (self._before, again))
        if abs(first - second) > _NOISE * self.budget.max_drop:
            raise InputError(
                f"evaluate is not deterministic: two evaluations of your model give {first:.9g} and {second:.9g}",
                where=self.measure.name,
                hint="fix seeds and the order of rows in evaluate, and call model.eval()",
            )
        if first != second:
            self.notices.append(f"two evaluations of your model differ by {abs(first - second):.2g}")

    def trial(self, candidate: Callable[..., Any]) -> Drop:
        """The drop of a composition on the rows for choices."""
        after = self._sample(candidate, certificate=False, whose="the compressed model")
        return self.measure.drop(self._before, after, self.budget.confidence, False)

    def fits(self, drop: Drop) -> bool:
        """Whether a composition counts as inside the budget when choices are made."""
        bound = self.bound(drop)
        return (drop.estimate if bound is None else bound) <= self.budget.max_drop

    def bound(self, drop: Drop) -> float | None:
        """See `Drop.cautious`."""
        rows = self.measure.rows
        return drop.cautious(rows[0] / rows[1] if rows else 1.0)

    def reference(self) -> float:
        """The metric of the user's model on the rows for the certificate."""
        if self._reference is None:
            self._reference = self._before
            if self.measure.parts:
                self._reference = self._sample(self._model, certificate=True, whose="your model")
        return self.measure.value(self._reference, True)

    def certify(self, final: Callable[..., Any]) -> tuple[float, float, Drop]:
        """The metric of the user's model and of the final one on the rows for the certificate, and the drop."""
        before = self.reference()
        after = self._sample(final, certificate=True, whose="the compressed model")
        drop = self.measure.drop(self._reference, after, self.budget.confidence, True)
        return before, self.measure.value(after, True), drop

    def _sample(self, model: Any, *, certificate: bool, whose: str) -> Any:
        self.evaluations += 1
        try:
            return self.measure.sample(model, certificate)
        except RecfxError:
            raise
        except Exception as error:
            text = " ".join(f"{type(error).__name__}: {error}".split())
            raise InputError(
                f"evaluate failed on {whose}: {text[:300]}",
                where=self.measure.name,
                hint="it may only call the model, with inputs as in example_inputs; the compressed model has no submodules",
            ) from error
