"""`Judge`: measures compositions against the user's model, counts the evaluations, and checks that `evaluate` can be trusted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from recfx.budget.interval import Drop
from recfx.budget.measures import Measure
from recfx.budget.settings import LEAST_EVALUATIONS, Budget
from recfx.budget.untouched import Untouched
from recfx.errors import InputError, RecfxError

#: The part of the budget by which two evaluations of the user's model may differ.
_NOISE = 0.1
#: How the probability of a false claim is divided between the first certificate and one of a safer composition (Bonferroni).
_SHARES = (0.75, 0.25)
#: How probable it should be that the certificate of the safer composition holds.
_SAFE = 0.975


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
        """Evaluations that are left for compositions. Some are kept for the certificate, and for a second one where there are enough."""
        kept = (2 if self.measure.parts else 1) + (self.budget.evaluations > LEAST_EVALUATIONS)
        return self.budget.evaluations - self.evaluations - kept

    @property
    def may_certify(self) -> bool:
        """Whether an evaluation is left for one more certificate."""
        return self.evaluations < self.budget.evaluations

    def confidence(self, attempt: int) -> float:
        """The confidence of the first certificate (0) or of the second one (1). Both claims together hold with the budget's."""
        return 1 - _SHARES[attempt] * (1 - self.budget.confidence)

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
        return self.measure.drop(self._before, after, self.confidence(0), False)

    def fits(self, drop: Drop) -> bool:
        """Whether a composition counts as inside the budget when choices are made."""
        return self._inside(drop, self.bound(drop))

    def is_safe(self, drop: Drop) -> bool:
        """Whether the second certificate of a composition will almost surely hold, from its drop on the rows for choices."""
        return self._inside(drop, drop.cautious(self._ratio, self.confidence(1), _SAFE))

    def _inside(self, drop: Drop, bound: float | None) -> bool:
        return (drop.estimate if bound is None else bound) <= self.budget.max_drop

    def bound(self, drop: Drop) -> float | None:
        """See `Drop.cautious`."""
        return drop.cautious(self._ratio)

    @property
    def _ratio(self) -> float:
        rows = self.measure.rows
        return rows[0] / rows[1] if rows else 1.0

    def reference(self) -> float:
        """The metric of the user's model on the rows for the certificate."""
        if self._reference is None:
            self._reference = self._before
            if self.measure.parts:
                self._reference = self._sample(self._model, certificate=True, whose="your model")
        return self.measure.value(self._reference, True)

    def certify(self, final: Callable[..., Any], confidence: float | None = None) -> tuple[float, float, Drop]:
        """The metric of the user's model and of the final one on the rows for the certificate, and the drop.

        Args:
            final: The final model.
            confidence: The confidence of the interval; by default the budget's.
        """
        before = self.reference()
        after = self._sample(final, certificate=True, whose="the compressed model")
        drop = self.measure.drop(self._reference, after, confidence or self.budget.confidence, True)
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
