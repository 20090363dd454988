"""`Placement`: the backend of each region of a compiled model, and the operators that torch runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from recfx.driver.drawing import drawing
from recfx.driver.parts import Parts
from recfx.driver.placement_report import PlanTimes
from recfx.driver.svg import svg
from recfx.driver.torch_operators import TorchOperator, described
from recfx.errors import InputError

#: The batch size at which the operators of a region are weighed if nothing was measured.
_ROWS = 64


class Placement(dict[str, str]):
    """Region -> backend. Its text also names the operators that torch runs, with reasons and shares of the time.

    Attributes:
        torch_operators: The operators that torch runs although the target has other backends.
        kept_eager: Whether the user's own model runs instead, since it measured faster.
        failures: What happened to plans at calls, one line each.
        plans: The plans of the batch sizes, if there are several.
    """

    def __init__(
        self,
        regions: Mapping[str, str],
        torch_operators: Sequence[TorchOperator] = (),
        *,
        kept_eager: bool = False,
        failures: Sequence[str] = (),
        plans: Sequence[PlanTimes] = (),
        draw: Callable[[], str] | None = None,
    ) -> None:
        super().__init__(regions)
        self.plans = tuple(plans)
        self._draw = draw
        self.failures = tuple(failures)
        self.torch_operators = tuple(torch_operators)
        self.kept_eager = kept_eager

    def __repr__(self) -> str:
        lines = [f"{region}: {backend}" for region, backend in self.items()]
        if self.kept_eager:
            lines.insert(0, "your own model runs, which measured faster than:")
        if self.torch_operators:
            lines += ["operators that torch runs:", *(f"  {line}" for line in described(self.torch_operators))]
        lines += [f"the plan {plan.name} runs {plan.used}" for plan in self.plans if plan.used]
        return "\n".join([*lines, *self.failures])

    def svg(self) -> str:
        """A picture of the program as the text of an SVG file: modules are clusters, backends are colours, and areas are times.

        The times of regions are those of the report, divided among their operators by arithmetic. Without times, areas show arithmetic.

        Raises:
            InputError: The placement was copied or pickled, and holds no program.
        """
        if self._draw is None:
            raise InputError("a copied placement holds no program to draw", hint="call placement.svg() of the model")
        return self._draw()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_draw": None}


def placement(parts: Parts) -> Placement:
    """The placement of a model, including its plan for a batch of one row."""
    regions = {f"region {i}": region.backend for i, region in enumerate(parts.regions)}
    operators = parts.report.in_torch
    if parts.one_row is not None:
        regions |= {f"one row, region {i}": region.backend for i, region in enumerate(parts.one_row.regions)}
        operators += parts.one_row.report.in_torch
    failures = [failure for each in (parts, parts.one_row) if each is not None for failure in each.plans.failures]
    plans = parts.report.plans if parts.plans.bounds else ()
    return Placement(
        regions,
        operators,
        kept_eager=parts.report.kept_eager,
        failures=failures,
        plans=plans,
        draw=partial(_draw, parts),
    )


def _draw(parts: Parts) -> str:
    """The picture of the plan that the report describes."""
    report = parts.report
    rows = report.measured[-1].batch if report.measured else _ROWS
    return svg(drawing(parts.placed, report.regions, rows), f"{report.model} for {report.target}")
