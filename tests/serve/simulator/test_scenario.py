"""Scenarios that cannot be simulated are refused at once."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from simulator_kit import FP32, INT8, LADDER, TIMES, scenario

from recfx.errors import InputError
from recfx.serve.policies import AimdConfig, DeadlineConfig, TenantConfig, TenantLimit, TenantLimits
from recfx.serve.simulator import (
    ROUTING,
    Fault,
    Machines,
    Policies,
    QuerySizes,
    RecordedTimes,
    Tenants,
    Variant,
    simulate,
)
from recfx.serve.simulator.scenario import as_input_error

#: What is refused -> how it is made, and a part of the message.
REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "no variant": (lambda: scenario(variants=()), "no variant"),
    "no machine": (lambda: scenario(machines=()), "no machine"),
    "no replica": (lambda: Machines(0), "count is 0"),
    "no core": (lambda: Machines(1, 0), "cores is 0"),
    "a machine without speed": (lambda: Machines(1, slowdown=math.inf), "slowdown is inf"),
    "a negative threshold": (lambda: Machines(1, offload_rows=-1), "offload_rows is -1"),
    "no time": (lambda: scenario(seconds=0.0), "seconds is 0.0"),
    "endless time": (lambda: scenario(seconds=math.inf), "seconds is inf"),
    "an SLA that is not a number": (lambda: scenario(sla_seconds=math.nan), "sla_seconds is nan"),
    "an overhead above the SLA": (lambda: scenario(overhead_seconds=0.03), "the overhead of 0.03 s alone"),
    "negative jitter": (lambda: scenario(jitter=-0.1), "jitter is -0.1"),
    "no balancer": (lambda: scenario(balancers=0), "balancers is 0"),
    "only warm-up": (lambda: scenario(warm_up=5.0), "warm_up 5 leaves nothing"),
    "a fault of an unknown replica": (lambda: scenario(faults=(Fault(2),)), r"faults of replicas \[2\], there are 2"),
    "a fault that ends before it begins": (lambda: Fault(0, 2.0, 1.0), "a fault from 2.0 to 1.0"),
    "a fault without time": (lambda: Fault(0, slowdown=0.0), "slowdown is 0.0"),
    "an unknown routing": (lambda: Policies(routing="random"), "no routing policy 'random'"),
    "tenants without requests": (lambda: Tenants({"a": 0.0}, TenantConfig(TenantLimit(1.0, 1.0))), "shares of tenants"),
    "variants in the wrong order": (lambda: scenario(variants=(INT8, FP32)), "does not stand below"),
    "a variant twice": (lambda: scenario(variants=(FP32, dataclasses.replace(INT8, name="fp32"))), "one name"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_simulated_is_refused(name: str) -> None:
    make, part = REFUSED[name]
    with pytest.raises(InputError, match=part) as caught:
        make()
    assert len(str(caught.value.hint).split()) > 1


def test_errors_of_policies_become_input_errors() -> None:
    with pytest.raises(InputError, match="most_rows is 0") as caught:
        as_input_error(lambda: DeadlineConfig(most_rows=0))
    assert "integer of at least 1" in str(caught.value.hint)
    with pytest.raises(InputError, match="cores is 0"):
        as_input_error(lambda: Machines(1, 0))
    assert as_input_error(lambda: 3) == 3


@pytest.mark.parametrize("routing", ROUTING)
def test_every_routing_policy_is_made(routing: str) -> None:
    router = Policies(routing=routing).router(range(3), Random(0))
    assert type(router).__name__.lower() == routing.replace("-", "")
    assert router.replicas == (0, 1, 2)


def test_the_rate_of_a_variant_is_that_of_batches_within_half_the_sla() -> None:
    made = scenario(sla_seconds=0.004)
    assert made.rows_per_second(FP32, 3) == pytest.approx(3 * TIMES.rate(256))
    alone = scenario(policies=Policies(batching=None), sizes=QuerySizes.of("64"))
    assert alone.rows_per_second(FP32, 1) == pytest.approx(TIMES.rate(64))
    small = scenario(policies=Policies(batching=AimdConfig(0.01, most_rows=16)))
    assert small.rows_per_second(FP32, 1) == pytest.approx(TIMES.rate(16))
    slow = Variant("slow", TIMES.scaled(1e4))
    assert scenario().rows_per_second(slow, 1) == pytest.approx(slow.times.rate(1))


def test_ladders_are_made_for_several_variants_only() -> None:
    assert scenario().ladder() is None
    assert scenario(variants=LADDER, policies=Policies(ladder=None)).ladder() is None
    ladder = scenario(variants=LADDER).ladder()
    assert ladder is not None
    assert [rung.name for rung in ladder.rungs] == ["fp32", "int8", "shortlist"]


def test_tenants_share_a_limit_object() -> None:
    tenants = Tenants({"a": 1.0, "b": 3.0}, TenantConfig(TenantLimit(1.0, 1.0)))
    assert TenantLimits(tenants.config).admit("a", 1, 0.0) == 0.0


def test_recorded_factors_are_those_of_the_batches_in_turn() -> None:
    made = scenario(arrivals=RecordedTimes((0.0, 1.0, 2.0)), replicas=1, sizes=QuerySizes.of("64"), factors=(1.0, 3.0))
    found = [simulate(made).latency(share) for share in (0.0, 100.0)]
    assert found == pytest.approx([TIMES.seconds(64), 3.0 * TIMES.seconds(64)])


@pytest.mark.parametrize(
    "changes", [{"factors": (1.0, 0.0)}, {"factors": (math.nan,)}, {"factors": (1.0,), "jitter": 0.1}]
)
def test_wrong_factors(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="factor"):
        scenario(**changes)
