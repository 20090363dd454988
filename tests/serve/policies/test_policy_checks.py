"""Configurations that cannot work are refused with the field and the next step."""

from __future__ import annotations

import ast
import dataclasses
import math
import traceback
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serve_kit import linear

from recfx.serve import policies
from recfx.serve.policies import (
    Admission,
    AdmissionConfig,
    AimdConfig,
    BusyMeter,
    DeadlineConfig,
    DeepRecSysClimb,
    HillClimb,
    LadderConfig,
    LoadMeter,
    PeakEwmaConfig,
    PrequalConfig,
    RateSearchConfig,
    ReplicaLoad,
    RoundRobin,
    Rung,
    ScalingConfig,
    ServiceTimes,
    SplitConfig,
    TenantConfig,
    TenantLimit,
    TimeCorrection,
    VariantLadder,
)

#: What is refused -> how it is made, and a part of the message.
REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "a target of 0": (lambda: AimdConfig(0.0), "target_seconds is 0.0"),
    "a back-off that does nothing": (lambda: AimdConfig(1.0, back_off=1.0), "never shrinks"),
    "a back-off above 1": (lambda: AimdConfig(1.0, back_off=1.5), "back_off is 1.5"),
    "limits that cross": (lambda: AimdConfig(1.0, least_rows=8, most_rows=4), "most_rows is 4"),
    "a fraction of a row": (lambda: AimdConfig(1.0, add_rows=1.5), "add_rows is 1.5"),  # type: ignore[arg-type]
    "a negative wait": (lambda: DeadlineConfig(most_wait=-1.0), "most_wait is -1.0"),
    "a margin that is not a number": (lambda: DeadlineConfig(margin=math.nan), "margin is nan"),
    "a batch of 0 rows": (lambda: DeadlineConfig(most_rows=0), "most_rows is 0"),
    "a grace below 0": (lambda: DeadlineConfig(grace=-0.5), "grace is -0.5"),
    "a grace that is not a number": (lambda: DeadlineConfig(grace=math.nan), "grace is nan"),
    "a split over 0 cores": (lambda: SplitConfig(0), "cores is 0"),
    "parts of 0 rows": (lambda: SplitConfig(2, least_rows=0), "least_rows is 0"),
    "a decay of 0": (lambda: PeakEwmaConfig(decay_seconds=0.0), "decay_seconds is 0.0"),
    "a pool of one probe": (lambda: PrequalConfig(pool=1), "pool is 1"),
    "a quantile above 1": (lambda: PrequalConfig(quantile=1.1), "quantile is 1.1"),
    "no probes": (lambda: PrequalConfig(probes=0.0), "probes is 0.0"),
    "a rung without speed": (lambda: Rung("a", 0.0, 0.8), "rows_per_second of 'a'"),
    "a rung without quality": (lambda: Rung("a", 1.0, math.nan), "quality of 'a'"),
    "a ladder that flaps": (lambda: LadderConfig(most_use=0.7, return_use=0.7), "back and forth"),
    "a ladder without rungs": (lambda: VariantLadder([]), "without a variant"),
    "a ladder with one name twice": (lambda: VariantLadder([Rung("a", 1.0, 1.0), Rung("a", 2.0, 0.5)]), "one name"),
    "a rung that is slower": (lambda: VariantLadder([Rung("a", 2.0, 1.0), Rung("b", 1.0, 0.5)]), "not quicker"),
    "a rung that is better": (lambda: VariantLadder([Rung("a", 1.0, 0.5), Rung("b", 2.0, 0.8)]), "or it is better"),
    "replicas that come and go": (lambda: ScalingConfig(most_use=0.8, return_use=0.9), "come and go"),
    "fewer replicas than the least": (lambda: ScalingConfig(least=4, most=2), "most is 2"),
    "a queue of 0": (lambda: AdmissionConfig(most_waiting=0), "most_waiting is 0"),
    "a tenant without rows": (lambda: TenantLimit(0.0, 10.0), "rows_per_second is 0.0"),
    "tenants without limits": (lambda: TenantConfig(), "no tenant has a limit"),
    "a search without a limit": (lambda: RateSearchConfig(0.0), "sla_seconds is 0.0"),
    "a search without an end": (lambda: RateSearchConfig(1.0, precision=0.0), "precision is 0.0"),
    "a search that stands still": (lambda: RateSearchConfig(1.0, factor=1.0), "factor is 1.0"),
    "a climb without values": (lambda: HillClimb([]), "no value"),
    "a climb over batches without values": (lambda: DeepRecSysClimb([]), "no value"),
    "a climb without patience": (lambda: HillClimb([1], patience=0), "patience is 0"),
    "a replica twice": (lambda: RoundRobin([1, 2, 1]), "the replica 1 is known"),
    "times without a point": (lambda: ServiceTimes({}), "no time was measured"),
    "a time of 0": (lambda: ServiceTimes({1: 0.0}), "the time of 1 rows is 0.0"),
    "a time without end": (lambda: ServiceTimes({1: math.inf}), "the time of 1 rows is inf"),
    "a time of 0 rows": (lambda: ServiceTimes({0: 1.0}), "a number of rows is 0"),
    "times scaled by 0": (lambda: linear().scaled(0.0), "factor is 0.0"),
    "a correction without weight": (lambda: TimeCorrection(weight=0.0), "weight is 0.0"),
    "a window of 0": (lambda: LoadMeter(0.0), "seconds is 0.0"),
    "a window without parts": (lambda: LoadMeter(1.0, 0), "buckets is 0"),
    "a meter of 0 cores": (lambda: BusyMeter(0), "cores is 0"),
    "a meter of 0 seconds": (lambda: BusyMeter(1, 0.0), "seconds is 0.0"),
    "an admission on 0 cores": (lambda: Admission(linear(), cores=0), "cores is 0"),
    "a half-life of 0": (lambda: ReplicaLoad(half_life=0.0), "half_life is 0.0"),
    "no tenants": (lambda: TenantConfig(TenantLimit(1.0, 1.0), most_tenants=0), "most_tenants is 0"),
    "a correction without an end": (lambda: TimeCorrection(most=0.5), "most is 0.5"),
    "times that are negative": (lambda: linear().without(-1.0), "seconds is -1.0"),
    "a climb over batches without patience": (lambda: DeepRecSysClimb([1], patience=0), "patience is 0"),
    "a load without samples": (lambda: ReplicaLoad(samples=0), "samples is 0"),
    "true as a number": (lambda: DeadlineConfig(most_wait=True), "most_wait is True"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_work_is_refused(name: str) -> None:
    make, part = REFUSED[name]
    with pytest.raises(ValueError, match="next:") as caught:
        make()
    what, _, hint = str(caught.value).partition("\n  next:  ")
    assert part in what
    assert len(hint.split()) > 2


def _checks() -> set[tuple[str, int]]:
    """The places in the policies that check a value: (file, line)."""
    found = set()
    for file in Path(policies.__file__).parent.glob("*.py"):
        calls = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
        found |= {
            (file.name, call.lineno) for call in calls if ast.unparse(call.func) in ("check_count", "check_number")
        }
    return found


def _check_that_refused(error: BaseException) -> tuple[str, int]:
    frames = [(Path(frame.filename).name, frame.lineno or 0) for frame in traceback.extract_tb(error.__traceback__)]
    return next(frame for frame in reversed(frames) if frame[0] != "_checks.py")


def test_every_check_refuses_something() -> None:
    """Of the values above, and of configurations with one negative number."""
    refused = set()
    makes = [make for make, _ in REFUSED.values()]
    for config in CONFIGS:
        names = [field.name for field in dataclasses.fields(config)]  # type: ignore[arg-type]
        makes += [lambda c=config, name=name: dataclasses.replace(c, **{name: -math.inf}) for name in names]  # type: ignore[misc]
    for make in makes:
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - the tests above and below look at the messages
            make()
        refused.add(_check_that_refused(caught.value))
    assert _checks() - refused == set()


CONFIGS = [
    AdmissionConfig(),
    AimdConfig(0.01),
    DeadlineConfig(),
    LadderConfig(),
    PeakEwmaConfig(),
    PrequalConfig(),
    RateSearchConfig(0.025),
    ScalingConfig(),
    SplitConfig(2),
    TenantLimit(10.0, 10.0),
]


@given(st.data())
def test_no_number_of_a_configuration_may_be_negative_or_not_finite(data: st.DataObject) -> None:
    config: Any = data.draw(st.sampled_from(CONFIGS))
    field = data.draw(st.sampled_from(dataclasses.fields(config)))
    wrong = data.draw(st.sampled_from([-1, -0.5, math.nan, math.inf, -math.inf, "3", None, True]))
    with pytest.raises(ValueError, match=field.name):
        dataclasses.replace(config, **{field.name: wrong})


def test_every_name_is_exported() -> None:
    assert sorted(policies.__all__) == list(policies.__all__)
    assert all(hasattr(policies, name) for name in policies.__all__)


def test_a_router_without_replicas_says_so() -> None:
    router: policies.Router[int] = policies.PowerOfTwo([], Random(0))
    with pytest.raises(LookupError, match="no replica"):
        router.choose(0.0)
