"""A scenario of the tests of the simulator, small and quick."""

from __future__ import annotations

from typing import Any

from recfx.serve.policies import ServiceTimes
from recfx.serve.simulator import Machines, Poisson, QuerySizes, Scenario, Variant

#: Seconds by rows, like those of a small DLRM on one core.
TIMES = ServiceTimes({1: 2e-4, 16: 3e-4, 64: 7e-4, 256: 2e-3, 1024: 8e-3})
FP32 = Variant("fp32", TIMES, 0.8138)
INT8 = Variant("int8", TIMES.scaled(0.4), 0.8130)
LADDER = (FP32, INT8, Variant("shortlist", TIMES.scaled(0.1), 0.8050))


def scenario(rate: float = 200.0, replicas: int = 2, cores: int = 1, **changes: Any) -> Scenario:
    """A load of DeepRecSys' queries on equal replicas."""
    given: dict[str, Any] = {
        "variants": (FP32,),
        "machines": (Machines(replicas, cores),),
        "arrivals": Poisson(rate),
        "seconds": 5.0,
        "sizes": QuerySizes.of("deeprecsys"),
    }
    return Scenario(**(given | changes))
