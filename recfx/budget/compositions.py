"""`Compositions`: the groups of one model, the steps of each, and the compiled model of any composition of steps."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from recfx.budget.ranking import Ranking
from recfx.budget.settings import KINDS
from recfx.budget.steps import PRUNE_AFTER, Group, Plan, Setting, Step, setting_of
from recfx.budget.units import Option, Unit, best_choice, reverted_by, setting_of_options
from recfx.compiled import CompiledModel
from recfx.driver.build import stages_of
from recfx.driver.options import kernels_of
from recfx.driver.parts import Parts
from recfx.driver.road import Road
from recfx.ir.program import Program
from recfx.ir.verify import Level
from recfx.passes import Passes, default_stages, precisions
from recfx.passes.prune.calibration import batches
from recfx.targets import resolve

#: Rows on which the outputs of single steps are compared, and rows of calibration data for each single step.
_RANKED_ROWS, _STEP_ROWS = 512, 1024

#: What may be preferred -> the weights of the share of bytes and of the share of time.
PREFERENCES: Mapping[str, tuple[float, float]] = {"both": (1.0, 1.0), "bytes": (1.0, 0.0), "time": (0.0, 1.0)}
#: What the other share counts, so that a step that costs no harm is taken for it.
_LITTLE = 1e-3


class Compositions:
    """The groups and steps of one model, and its compositions.

    Args:
        road: The captured model.
        extra: The user's own passes in the default pipeline.
        calibration: Calibration data; None without any.
        prefer: What steps should save: "bytes", "time" or "both".
        kinds: What may be compressed, see `Budget`.

    Attributes:
        groups: All groups, once `rank` has run.
        steps: Likewise, the steps of all groups.
        units: Likewise, the groups whose forms are chosen together.
        quantises: Whether the target has kernels for fewer bits.
        notices: What the reader should know about the choices.
    """

    def __init__(
        self,
        road: Road,
        extra: Mapping[str, Passes] | Passes,
        calibration: list[Any] | None,
        prefer: str = "both",
        kinds: tuple[str, ...] = KINDS,
    ) -> None:
        kernels = kernels_of(resolve(road.options.target))
        calibrated = calibration is not None
        self._road, self._calibration = road, calibration
        self._weights, self._kinds = PREFERENCES[prefer], kinds
        self._plan = Plan(
            default_stages(requests=bool(road.options.request_inputs), kernels=kernels),
            extra,
            importance="taylor" if calibrated else "l2",
            keep_means=calibrated,
            calibrated=calibrated and road.one_row is None,  # its program takes no batch of calibration data
        )
        self._resources = {**road.resources, **({"calibration": calibration} if calibrated else {})}
        self.quantises = "int8" in precisions(kernels)
        self.notices: list[str] = []
        self.groups: list[Group] = []
        self.steps: list[Step] = []
        self.units: list[Unit] = []

    def rank(self, advance: Callable[[int], object] = lambda done: None) -> None:
        """Finds the groups, their steps and what these cost and save.

        Args:
            advance: Called with 1 after each group.
        """
        ranking = Ranking(
            self._road.captured,
            self._plan,
            self._rows(_RANKED_ROWS),
            self._resources if self._calibration is None else {**self._resources, "calibration": self._few()},
            quantises=self.quantises,
            prunes=self._prunes(),
            kinds=self._kinds,
            advance=advance,
        )
        scores = ranking.score(self._calibration)
        if scores is not None:  # all compositions remove the channels that the steps removed
            self._resources = {**self._resources, "channel-scores": scores}
        self.steps = ranking.steps()
        self.groups, self.units = ranking.groups, ranking.units
        if not self.quantises:
            self.notices.append("no backend of this target has kernels for fewer bits, so only channels are removed")

    def preferring(self, prefer: str) -> Compositions:
        """The same groups and steps with another preference."""
        other = copy.copy(self)
        other._weights = PREFERENCES[prefer]
        return other

    def forget(self) -> None:
        """Leaves out all groups, so that nothing is compressed."""
        self.groups, self.steps, self.units = [], [], []

    def worth(self, bytes_saved: float, time_saved: float) -> float:
        """What saving a share of the bytes and a share of the time is worth."""
        of_bytes, of_time = self._weights
        return max(of_bytes, _LITTLE) * bytes_saved + max(of_time, _LITTLE) * time_saved

    def worth_of(self, reverted: frozenset[int]) -> float:
        """What the composition without some steps is worth."""
        return self.worth(*self.saved(self.setting(reverted)))

    def choice(self, most_harm: float) -> list[Option]:
        """The options that are worth most within a total harm."""
        return best_choice(self.units, most_harm, self.worth)

    def reverted(self, options: list[Option]) -> frozenset[int]:
        """The numbers of the steps that are not taken."""
        return reverted_by(self.steps, setting_of_options(options))

    def setting(self, reverted: frozenset[int]) -> dict[Group, str]:
        """The forms of all groups when some steps are not taken."""
        return setting_of(self.steps, [self.steps[number] for number in reverted])

    def saved(self, setting: Setting) -> tuple[float, float]:
        """The shares of the bytes and of the time that a composition saves, about."""
        found = [_option_in(unit, setting) for unit in self.units]
        return sum(option.bytes for option in found), sum(option.time for option in found)

    def harm(self, setting: Setting) -> float:
        """The sum of the estimated harms of a composition."""
        return sum(_option_in(unit, setting).harm for unit in self.units)

    def tried(self, setting: Setting) -> CompiledModel:
        """A composition, compiled quickly: only its answers are of use."""
        with stages_of(type(self._road.model).__name__, shown=False) as stages:
            road = dataclasses.replace(self._with_pipeline(setting, measure=False), stages=stages)
            road = road.with_options(
                target="native" if self.quantises else "eager", level=Level.OFF, placement=None, debug=None
            )
            return CompiledModel(road.parts())

    def built(self, setting: Setting) -> Parts:
        """A composition, built as `optimize` builds any model."""
        with stages_of(type(self._road.model).__name__) as stages:
            stages.seconds.update(self._road.stages.seconds)
            return dataclasses.replace(self._with_pipeline(setting), stages=stages).parts()

    def _with_pipeline(self, setting: Setting, **changes: Any) -> Road:
        pipeline = self._plan.pipeline(self.groups, setting)
        return self._road.with_options(pipeline=pipeline, resources=self._resources, lenient=True, **changes)

    def _prunes(self) -> bool:
        if not any(stage.name == PRUNE_AFTER for stage in self._plan.stages):
            return False
        if self._road.one_row is not None:
            self.notices.append(
                "channels stay: a batch of one row has a program of its own, in which others would be removed"
            )
            return False
        if self._calibration is None:
            self.notices.append(
                "channels stay: without calibration data it is not known which ones matter; pass calibration="
            )
        return self._calibration is not None

    def _rows(self, most: int) -> list[list[Any]]:
        """Flat inputs of about a number of rows."""
        captured = self._road.captured
        if self._calibration is None:
            return [list(captured.example)]
        return list(_first(batches(captured, self._calibration), most, captured))

    def _few(self) -> list[Any]:
        """The first batches of the calibration data."""
        captured, data = self._road.captured, self._calibration or []
        return data[: sum(1 for _ in _first(batches(captured, data), _STEP_ROWS, captured))]


def _first(given: Iterable[list[Any]], most: int, program: Program) -> Iterator[list[Any]]:
    """The first batches, until there are as many rows."""
    place, rows = program.signature.batch_leaf, 0
    for leaves in given:
        yield leaves
        rows += len(leaves[place]) if place is not None else 1
        if rows >= most:
            return


def _option_in(unit: Unit, setting: Setting) -> Option:
    """The option of a unit in a setting; of those that it surpasses, the nearest one with all of its forms or less."""
    own = {group for option in unit for group, _ in option.forms}
    wanted = {group: setting[group] for group in own if group in setting}
    exact = next((option for option in unit if dict(option.forms) == wanted), None)
    if exact is not None:
        return exact
    within = [option for option in unit if all(_no_further(form, group, wanted) for group, form in option.forms)]
    return max(within, key=lambda option: option.bytes)


def _no_further(form: str, group: Group, setting: Setting) -> bool:
    return group in setting and group.forms.index(form) <= group.forms.index(setting[group])
