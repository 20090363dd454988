"""The user's options of `optimize`: checked once, then read by every stage."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from recfx.errors import InputError, TargetError
from recfx.ir.numeric import weakest
from recfx.ir.verify import Level
from recfx.passes import PRECISIONS, Passes, default_pipeline, default_stages, precisions, with_extra_passes
from recfx.pipeline import Pass, Pipeline
from recfx.targets import BACKENDS, GROUPS, OPTIONAL, Backend, EagerBackend, missing_backends, resolve

#: How backends are chosen: by measured or by predicted times.
PLACEMENTS = ("measure", "model")

#: Types that `optimize` accepts as a pipeline.
PipelineLike = str | Pipeline | Pass | type[Pass] | Iterable[Pass | type[Pass] | str] | None


@dataclasses.dataclass(frozen=True)
class Options:
    """The arguments of `optimize`, apart from the model and its example.

    Attributes:
        target: As the user wrote it.
        pipeline: The passes to run.
        lenient: Whether a rule or pass that fails is skipped with a notice; True if the user did not choose the passes.
        dynamic_shapes: See `optimize`.
        max_batch: Likewise.
        request_inputs: Likewise.
        many_requests: Likewise.
        check_requests: Likewise.
        level: The verification after each pass.
        measure: Whether the compiled model is timed against the user's.
        debug: The folder for programs before and after each pass.
        constant_inputs: See `optimize`.
        catalogue: Whether `constant_inputs` are a catalogue.
        copy_weights: See `optimize`.
        placement: Likewise; None for "measure", or "model" without `measure`.
        resources: Name in `PassSpec.needs` -> the data that passes need in addition to the program.
    """

    target: str | tuple[str, ...]
    pipeline: Pipeline
    lenient: bool = False
    dynamic_shapes: Any = None
    max_batch: int = 0
    request_inputs: tuple[str, ...] = ()
    many_requests: bool = False
    check_requests: bool = True
    level: Level = Level.META
    measure: bool = True
    debug: Path | None = None
    constant_inputs: Mapping[str, Any] | Sequence[str] | None = None
    catalogue: bool = False
    copy_weights: bool = False
    placement: str | Mapping[str, str] | None = None
    resources: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.placement, str) and self.placement not in PLACEMENTS:
            raise InputError(
                f"placement={self.placement!r} is unknown",
                hint=f"one of {', '.join(map(repr, PLACEMENTS))}, or a dict of module path -> backend",
            )
        if self.many_requests and not self.request_inputs:
            raise InputError(
                "many_requests needs request_inputs", hint="name the inputs that hold one row for each request"
            )

    @property
    def competes(self) -> bool:
        """Whether the backends compete. A list of backends is an order in which they are tried, unless a placement is asked for."""
        return isinstance(self.placement, str) or bool(GROUPS.keys() & self.names)

    @property
    def names(self) -> set[str]:
        """The names in the target."""
        return {self.target} if isinstance(self.target, str) else {*self.target}

    @property
    def measures(self) -> bool:
        """Whether plans are measured before one is chosen."""
        return self.placement == "measure" or (self.placement is None and self.measure)

    @cached_property
    def backends(self) -> list[Backend]:
        """The backends that may run the model, in the order in which they are tried.

        A target of several backends loses those that are less exact than the pipeline: exact passes get exact arithmetic.
        """
        found = resolve(self.target)
        if len(found) == 1:
            return found
        allowed = weakest(item.spec.exactness for item in self.pipeline.passes)
        return [b for b in found if weakest([allowed, b.exactness]) is allowed]

    def notices(self) -> tuple[str, ...]:
        """A notice for each backend of the target that is left out: it is missing, or less exact than the pipeline."""
        missing = (
            f"the {name} backend is missing, so torch runs its operators: {reason}"
            for name, reason in missing_backends(self.target).items()
        )
        chosen = [backend.name for backend in self.backends]
        kept_off = (
            f"every pass of the pipeline is {weakest(item.spec.exactness for item in self.pipeline.passes).value}, so the {backend.name} "
            f"backend ({backend.exactness.value}), which may be faster, was left out: put the passes into the default pipeline with "
            f"extra_passes=, or pass target={backend.name!r}"
            for backend in resolve(self.target)
            if backend.name not in chosen and (backend.name not in OPTIONAL or backend.name in self.names)
        )
        return (*missing, *kept_off)


def choose_pipeline(
    pipeline: PipelineLike,
    target: str | Sequence[str],
    requests: bool,
    precision: str,
    extra: Mapping[str, Passes] | Passes,
    calibrated: bool = False,
) -> Pipeline:
    """The user's pipeline, or the default that fits the target and the precision.

    Args:
        pipeline: The user's pipeline; None for the default.
        target: The target of `optimize`.
        requests: Whether the model has request inputs.
        precision: A key of PRECISIONS.
        extra: The user's passes in the default pipeline: by place, or for the default place.
        calibrated: Whether there is calibration data, which the default of a precision then uses.

    Raises:
        InputError: The precision is unknown, or a pipeline was given together with a precision or extra passes.
        PipelineError: A pipeline cannot be read, or extra passes name no stage.
        TargetError: No backend of the target computes in the precision.
    """
    backends = resolve(target)
    extra = as_listed(extra)
    if precision not in PRECISIONS:
        raise InputError(f"precision={precision!r} is unknown", hint=f"one of {', '.join(map(repr, PRECISIONS))}")
    if precision != "fp32" and pipeline is not None:
        raise InputError(
            "precision= adds passes to the default pipeline, and pipeline= was given as well",
            hint=f"leave precision= out and append {PRECISIONS[precision]!r} to the pipeline",
        )
    if precision not in precisions(kernels_of(backends)):
        raise TargetError(
            f"no backend of this target computes in {precision}",
            hint=BACKENDS["native"].unavailable() or "pass target='cpu' or target='native'",
        )
    if extra and pipeline is not None:
        raise InputError(
            "extra_passes= adds passes to the default pipeline, and pipeline= was given as well",
            hint="write the passes into the pipeline, or leave pipeline= out",
        )
    if extra:
        kernels = kernels_of(backends)
        stages = default_stages(requests=requests, kernels=kernels, precision=precision, calibrated=calibrated)
        return with_extra_passes(stages, extra)
    if isinstance(pipeline, Pipeline):
        return pipeline
    if pipeline is not None:
        return Pipeline(pipeline)
    return _default(backends, requests, precision, calibrated)


def as_listed(extra: Mapping[str, Passes] | Passes) -> Mapping[str, Passes] | Passes:
    """Extra passes in a form that can be read twice: an iterator becomes a list."""
    if isinstance(extra, str | Mapping | Pipeline | Pass | type):
        return extra
    return list(extra)


def is_default(pipeline: Pipeline, target: str | Sequence[str], requests: bool) -> bool:
    """Whether a pipeline is the default of the target at one of its precisions."""
    backends = resolve(target)
    return any(
        pipeline == _default(backends, requests, precision, calibrated)
        for precision in precisions(kernels_of(backends))
        for calibrated in (False, True)
    )


def verification_level(name: str) -> Level:
    """The verification level of the given name.

    Raises:
        InputError: The level is unknown.
    """
    try:
        return Level[name.upper()]
    except KeyError:
        names = ", ".join(repr(level.name.lower()) for level in Level)
        raise InputError(f"verify={name!r} is not a verification level", hint=f"one of {names}") from None


def _default(backends: Sequence[Backend], requests: bool, precision: str, calibrated: bool) -> Pipeline:
    kernels = kernels_of(backends)
    return Pipeline(default_pipeline(requests=requests, kernels=kernels, precision=precision, calibrated=calibrated))


def kernels_of(backends: Sequence[Backend]) -> frozenset[str]:
    """The operators for which a target has kernels. Backends after the eager backend do not count: it takes every operator."""
    before = itertools.takewhile(lambda backend: backend.name != EagerBackend.name, backends)
    return frozenset[str]().union(*(backend.kernels() for backend in before))
