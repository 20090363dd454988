"""`within_budget`: compiles the smallest composition of pruning and quantisation that keeps a metric, and certifies it.

The user's model is measured, the groups of the model are ranked by harm, compositions are measured on the rows for choices, and the best
one is built as `optimize` builds any model. Its certificate is computed on other rows. This room stands above the driver, since each
composition is a compiled model: what is measured is what will be served.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from recfx.budget.calibration import far_inputs, limited
from recfx.budget.certification import Certifier
from recfx.budget.choices import choices_of
from recfx.budget.compositions import Compositions
from recfx.budget.interval import Drop
from recfx.budget.judge import Judge
from recfx.budget.measures import measure_of
from recfx.budget.metrics import RowMetric
from recfx.budget.search import Search
from recfx.budget.settings import Budget
from recfx.budget.steps import Group, in_order
from recfx.budget.untouched import require_finite
from recfx.driver.build import open_road, stages_of
from recfx.driver.certificate import Certificate, Trial
from recfx.driver.options import Options
from recfx.driver.parts import Parts
from recfx.driver.road import Road
from recfx.errors import InputError
from recfx.passes import Passes
from recfx.passes.prune.calibration import batches
from recfx.progress import progress

#: The least total harm with which a search begins.
_LEAST_HARM = 1e-9


@dataclasses.dataclass(frozen=True)
class Request:
    """What the user asks for, in addition to the options of the build.

    Attributes:
        evaluate: A `RowMetric`, or a function from a model to a number, higher is better.
        budget: The budget.
        calibration: Calibration data; None for the rows of the metric on which choices are made, or else for the example.
        extra: The user's own passes in the default pipeline.
    """

    evaluate: Any
    budget: Budget
    calibration: Any = None
    extra: Mapping[str, Passes] | Passes = ()


def requested(
    evaluate: Any,
    budget: Budget | None,
    calibration: list[Any] | None,
    extra: Mapping[str, Passes] | Passes | None,
    *,
    is_default: bool,
) -> Request | None:
    """The request of the arguments of `optimize`; None without a budget.

    Args:
        evaluate: See `Request`.
        budget: Likewise.
        calibration: Likewise.
        extra: Likewise.
        is_default: Whether neither a pipeline nor a precision was given.

    Raises:
        InputError: The arguments do not go together.
    """
    if budget is None and evaluate is None:
        return None
    if budget is None or evaluate is None:
        given, missing = ("evaluate", "budget") if budget is None else ("budget", "evaluate")
        raise InputError(
            f"{given}= was given without {missing}=",
            hint="pass both: evaluate=recfx.AUC(valid), budget=recfx.Budget(max_drop=1e-3)",
        )
    if not isinstance(budget, Budget):
        raise InputError(
            f"budget= is a {type(budget).__name__}",
            hint="pass recfx.Budget(max_drop=1e-3) with the drop that you accept",
        )
    if not is_default:
        raise InputError(
            "budget= chooses passes and precisions, and pipeline= or precision= was given as well",
            hint="leave them out; your own passes go into extra_passes=",
        )
    return Request(evaluate, budget, calibration, extra or ())


def within_budget(
    model: torch.nn.Module,
    options: Options,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    user_model: weakref.ref[torch.nn.Module],
    request: Request,
) -> Parts:
    """Makes a compiled model within an accuracy budget.

    Args:
        model: See `build`.
        options: Likewise. The pipeline is chosen here.
        args: Likewise.
        kwargs: Likewise.
        user_model: Likewise.
        request: The budget and how to measure.

    Raises:
        InputError: The calibration data or `evaluate` cannot be used.
        DataError: The evaluation data cannot be used.
        RecfxError: See `recfx.optimize`.
    """
    require_finite(model)
    judge = Judge(measure_of(request.evaluate), request.budget, model)
    calibration = request.calibration or choice_rows(request.evaluate)
    with stages_of(type(model).__name__) as stages:
        road = open_road(model, options, args, kwargs, user_model, stages)
    return _Controller(road, judge, request, calibration).run()


def choice_rows(evaluate: Any) -> list[Any] | None:
    """The rows of a metric on which choices are made, as calibration data; None for a function."""
    return limited(evaluate.choice.batches()) if isinstance(evaluate, RowMetric) else None


class _Controller:
    """One search. See `within_budget`."""

    def __init__(self, road: Road, judge: Judge, request: Request, calibration: list[Any] | None) -> None:
        self._road, self._judge, self._request = road, judge, request
        self._calibration = calibration
        self._compositions = Compositions(road, request.extra, calibration, request.budget.prefer, request.budget.kinds)
        self._notices: list[str] = []
        self._trials: list[Trial] = []
        self._shares: dict[frozenset[int], float] = {}
        self._drops: dict[frozenset[int], Drop] = {}

    def run(self) -> Parts:
        """Chooses, builds and certifies."""
        reverted: frozenset[int] = frozenset()
        self._judge.begin()
        self._compare_calibration()
        search: Search | None = None
        try:
            with self._shown() as advance:
                self._compositions.rank()
                advance(1)
                search = self._search(advance)
                reverted = search.run()
        except KeyboardInterrupt:
            self._compositions.forget()
            self._notices.append("interrupted before any composition was measured: nothing is compressed")
        if search is not None and search.interrupted:
            self._notices.append("interrupted: the best composition that was measured until then is returned")
        return self._certified(reverted, search)

    @contextmanager
    def _shown(self) -> Iterator[Any]:
        total = max(self._judge.left, 1) + 1
        with progress(f"compressing {type(self._road.model).__name__} within a budget", total) as advance:
            yield advance

    def _compare_calibration(self) -> None:
        """A notice if the calibration data does not resemble the rows of the evaluation."""
        evaluate = self._request.evaluate
        if self._request.calibration is None or self._calibration is None or not isinstance(evaluate, RowMetric):
            return
        captured = self._road.captured
        own = list(batches(captured, self._calibration))
        far = far_inputs(captured, own, list(batches(captured, limited(evaluate.choice.batches()))))
        if far:
            self._notices.append(
                f"the calibration data is of another distribution than the evaluation data in {len(far)} input(s), such as {far[0]}: "
                "channels are ranked by what matters there"
            )

    def _search(self, advance: Any) -> Search:
        compositions, steps = self._compositions, self._compositions.steps
        positions = {(step.group, step.level): number for number, step in enumerate(steps)}

        def closed(reverted: frozenset[int]) -> frozenset[int]:
            levels: dict[Group, int] = {}
            for number in reverted:
                step = steps[number]
                levels[step.group] = min(levels.get(step.group, step.level), step.level)
            return frozenset(n for (group, level), n in positions.items() if level >= levels.get(group, level + 1))

        def fits(reverted: frozenset[int]) -> bool:
            found = self._trial(reverted)
            advance(1)
            return found

        return Search(
            in_order(steps),
            fits,
            self._judge.left,
            saved=lambda number: steps[number].saved,
            harm=lambda number: steps[number].harm,
            closed=closed,
            worth=compositions.worth_of,
            allocate=lambda harm: compositions.reverted(compositions.choice(harm)),
            share=self._shares.get,
            start=max(self._request.budget.max_drop, _LEAST_HARM),
        )

    def _trial(self, reverted: frozenset[int]) -> bool:
        """Measures a composition on the rows for choices."""
        compositions = self._compositions
        setting = compositions.setting(reverted)
        drop = self._judge.trial(compositions.tried(setting))
        self._drops[reverted] = drop
        fits, bound = self._judge.fits(drop), self._judge.bound(drop)
        if self._request.budget.max_drop > 0:
            self._shares[reverted] = (drop.estimate if bound is None else bound) / self._request.budget.max_drop
        harm, saved = compositions.harm(setting), sum(compositions.saved(setting))
        self._trials.append(Trial(len(reverted), drop.estimate, bound, fits, saved, harm))
        return fits

    def _certified(self, reverted: frozenset[int], search: Search | None) -> Parts:
        """The final composition, with the certificate in its report."""
        final = Certifier(self._judge, self._compositions, self._drops).certified(reverted)
        parts, drop, measure = final.parts, final.drop, self._judge.measure
        notices = [*self._judge.notices, *self._compositions.notices, *self._notices, *final.notices]
        if final.complete and drop.interval is None:
            notices.append(
                "no interval: evaluate gives one number for a model, so that the error of the drop is not known"
            )
        elif final.complete and not final.met and drop.estimate <= self._request.budget.max_drop:
            notices.append(
                "the drop is inside the budget, but its interval is not: more evaluation rows make it narrower"
            )
        trials = search.found if search is not None else []
        groups, steps = self._compositions.groups, self._compositions.steps
        certificate = Certificate(
            metric=measure.name,
            max_drop=self._request.budget.max_drop,
            confidence=drop.confidence,
            before=final.before,
            after=final.after,
            interval=drop.interval,
            met=final.met,
            rows=measure.rows,
            data=measure.data(),
            evaluations=self._judge.evaluations,
            choices=choices_of(groups, steps, final.reverted, trials, self._trials),
            trials=tuple(self._trials),
            bytes=parts.report.state_bytes,
            notices=tuple(notices),
        )
        parts.report = dataclasses.replace(parts.report, budget=certificate)
        return parts
