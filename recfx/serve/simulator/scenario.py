"""What is simulated: variants, machines, load, faults, and the policies that run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from random import Random
from typing import TypeVar

from recfx.errors import InputError
from recfx.serve.policies import (
    AdmissionConfig,
    AimdConfig,
    DeadlineConfig,
    LadderConfig,
    LeastInFlight,
    PeakEwma,
    PeakEwmaConfig,
    PowerOfTwo,
    Prequal,
    PrequalConfig,
    RoundRobin,
    Router,
    Rung,
    ScalingConfig,
    ServiceTimes,
    SplitConfig,
    TenantConfig,
    VariantLadder,
)
from recfx.serve.simulator.arrivals import Arrivals
from recfx.serve.simulator.query_sizes import QuerySizes

T = TypeVar("T")

#: Names of routing policies.
ROUTING = ("round-robin", "least-in-flight", "power-of-two", "peak-ewma", "prequal")


def as_input_error(make: Callable[[], T]) -> T:
    """Calls a constructor of the policies, and turns its `ValueError` into an error of recfx.

    Raises:
        InputError: The policies refuse the values.
    """
    try:
        return make()
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        what, _, hint = str(error).partition("\n  next:  ")
        raise InputError(what, hint=hint or "pass another value") from error


@dataclasses.dataclass(frozen=True)
class Variant:
    """A variant of the model.

    Attributes:
        name: Its name, such as "int8".
        times: Measured seconds by rows on one core of a machine without slowdown.
        quality: The metric of its certificate, such as the AUC; higher is better.
    """

    name: str
    times: ServiceTimes
    quality: float = 0.0


@dataclasses.dataclass(frozen=True)
class Machines:
    """Replicas of one kind.

    Attributes:
        count: Replicas.
        cores: Cores of each.
        slowdown: The times of their cores as a multiple of the measured ones.
        device: Seconds by rows on a second device, which computes one batch at a time; None without one.
        offload_rows: Requests of more rows go to the second device.
    """

    count: int
    cores: int = 1
    slowdown: float = 1.0
    device: ServiceTimes | None = None
    offload_rows: int = 256

    def __post_init__(self) -> None:
        for name in ("count", "cores"):
            _require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)!r}", "pass an integer of at least 1")
        _require(0.0 < self.slowdown < math.inf, f"slowdown is {self.slowdown!r}", "pass a number above 0")
        _require(self.offload_rows >= 0, f"offload_rows is {self.offload_rows!r}", "pass an integer of at least 0")


@dataclasses.dataclass(frozen=True)
class Fault:
    """A time in which a replica is slow or dead.

    Attributes:
        replica: Its number, counted over all machines from 0.
        begin: When it begins, in seconds.
        end: When it ends; infinity if it does not.
        slowdown: A multiple of the replica's times; infinity if it is dead: what it held is lost, and it answers nothing.
    """

    replica: int
    begin: float = 0.0
    end: float = math.inf
    slowdown: float = math.inf

    def __post_init__(self) -> None:
        _require(0.0 <= self.begin < self.end, f"a fault from {self.begin} to {self.end}", "pass begin < end")
        _require(self.slowdown > 0.0, f"slowdown is {self.slowdown!r}", "pass a number above 0")


@dataclasses.dataclass(frozen=True)
class Tenants:
    """Tenants and their limits.

    Attributes:
        shares: Tenant -> its share of the requests, as a weight.
        config: Their limits.
    """

    shares: Mapping[str, float]
    config: TenantConfig

    def __post_init__(self) -> None:
        weights = list(self.shares.values())
        sound = bool(weights) and all(0.0 <= w < math.inf for w in weights) and sum(weights) > 0.0
        _require(
            sound, f"shares of tenants are {dict(self.shares)!r}", "pass weights of at least 0, one of them above 0"
        )


@dataclasses.dataclass(frozen=True)
class Policies:
    """The policies that run, as in the engine.

    Attributes:
        routing: One of `ROUTING`.
        batching: Configuration of deadline-aware or of AIMD batching; None computes each request alone.
        admission: Early rejection; None admits everything.
        ladder: Changes of the variant; None keeps the first one.
        splitting: Splits of a batch over idle cores (its `cores` is cut to those of the machine); None keeps batches on one core.
        scaling: Changes of the number of replicas; None keeps it.
        prequal: Constants of Prequal.
        peak_ewma: Constants of peak EWMA.
    """

    routing: str = "prequal"
    batching: DeadlineConfig | AimdConfig | None = dataclasses.field(default_factory=DeadlineConfig)
    admission: AdmissionConfig | None = dataclasses.field(default_factory=AdmissionConfig)
    ladder: LadderConfig | None = dataclasses.field(default_factory=LadderConfig)
    splitting: SplitConfig | None = None
    scaling: ScalingConfig | None = None
    prequal: PrequalConfig = dataclasses.field(default_factory=PrequalConfig)
    peak_ewma: PeakEwmaConfig = dataclasses.field(default_factory=PeakEwmaConfig)

    def __post_init__(self) -> None:
        _require(self.routing in ROUTING, f"no routing policy {self.routing!r}", f"pass one of {', '.join(ROUTING)}")

    def router(self, replicas: range, random: Random) -> Router[int]:
        """A router over some replicas."""
        if self.routing == "round-robin":
            return RoundRobin(replicas)
        if self.routing == "least-in-flight":
            return LeastInFlight(replicas)
        if self.routing == "power-of-two":
            return PowerOfTwo(replicas, random)
        if self.routing == "peak-ewma":
            return PeakEwma(replicas, random, self.peak_ewma)
        return Prequal(replicas, random, self.prequal)


@dataclasses.dataclass(frozen=True)
class Scenario:
    """One simulation.

    Attributes:
        variants: Variants of the model, the best first.
        machines: Kinds of replicas.
        arrivals: When requests arrive.
        seconds: The simulated time in which they arrive.
        sizes: Candidates of a request.
        sla_seconds: The deadline of a request after it was sent.
        policies: The policies that run.
        faults: Slow and dying replicas.
        tenants: Tenants and their limits; None without limits.
        balancers: Balancers with a router each; requests go to them in turn.
        overhead_seconds: Constant time of a request outside the model: network and protocol.
        probe_seconds: Time from a probe's departure to its answer.
        jitter: Standard deviation of the logarithm of a batch's time around its profile.
        factors: Measured over predicted times of batches, which the batches take in turn, in place of a jitter: those of a run that the
            simulation is compared with.
        retries: Times that a request is sent again after its replica died.
        detect_seconds: Time until the death of a replica is known.
        start_seconds: Time until a replica that scaling adds answers.
        control_seconds: Time between two looks of the ladder and of scaling at the load.
        warm_up: Seconds at the beginning that the summary leaves out.
        seed: Seed of all random draws.
    """

    variants: tuple[Variant, ...]
    machines: tuple[Machines, ...]
    arrivals: Arrivals
    seconds: float = 60.0
    sizes: QuerySizes = dataclasses.field(default_factory=lambda: QuerySizes.of("deeprecsys"))
    sla_seconds: float = 0.025
    policies: Policies = dataclasses.field(default_factory=Policies)
    faults: tuple[Fault, ...] = ()
    tenants: Tenants | None = None
    balancers: int = 1
    overhead_seconds: float = 0.0
    probe_seconds: float = 0.0005
    jitter: float = 0.0
    factors: tuple[float, ...] = ()
    retries: int = 1
    detect_seconds: float = 0.1
    start_seconds: float = 5.0
    control_seconds: float = 0.5
    warm_up: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        _require(bool(self.variants), "no variant to simulate", "pass at least one Variant")
        _require(bool(self.machines), "no machine to simulate", "pass at least one Machines")
        for name in ("seconds", "sla_seconds", "control_seconds"):
            value = getattr(self, name)
            _require(0.0 < value < math.inf, f"{name} is {value!r}", "pass a number above 0")
        least_zero = (
            "overhead_seconds",
            "probe_seconds",
            "jitter",
            "detect_seconds",
            "start_seconds",
            "warm_up",
            "retries",
            "seed",
        )
        for name in least_zero:
            value = getattr(self, name)
            _require(0.0 <= value < math.inf, f"{name} is {value!r}", "pass a number of at least 0")
        sound = all(0.0 < factor < math.inf for factor in self.factors)
        _require(sound, "a factor of a batch's time is not above 0", "pass measured over predicted times")
        _require(not (self.factors and self.jitter), "factors and a jitter", "pass one of them")
        _require(self.balancers >= 1, f"balancers is {self.balancers!r}", "pass an integer of at least 1")
        _require(
            self.warm_up < self.seconds,
            f"warm_up {self.warm_up:g} leaves nothing of {self.seconds:g} seconds",
            "shorten it",
        )
        _require(
            self.overhead_seconds < self.sla_seconds,
            f"the overhead of {self.overhead_seconds:g} s alone takes the SLA of {self.sla_seconds:g} s",
            "pass a larger sla_seconds",
        )
        wrong = [fault.replica for fault in self.faults if not 0 <= fault.replica < self.replicas]
        _require(not wrong, f"faults of replicas {wrong}, there are {self.replicas}", "count replicas from 0")
        self.ladder()

    @property
    def replicas(self) -> int:
        """Replicas at the beginning."""
        return sum(machines.count for machines in self.machines)

    def rows_per_second(self, variant: Variant, cores: int) -> float:
        """Rows per second of a replica at the batch that computes most, among those of at most half the SLA.

        A request waits for a running batch before its own begins, so half the SLA is what a batch may take. Without batching, a batch
        is one request of average size.
        """
        batching = self.policies.batching
        limit = self.sizes.average if batching is None else batching.most_rows
        within = max(variant.times.most_rows(self.sla_seconds / 2.0, limit), 1)
        rows = within if batching is None else variant.times.best_rows(within)
        return cores * variant.times.rate(rows)

    def ladder(self) -> VariantLadder | None:
        """A ladder of the variants, with the rows per second of one core; None if the variant does not change.

        Raises:
            InputError: The variants are not sorted from the best to the quickest.
        """
        if self.policies.ladder is None or len(self.variants) == 1:
            return None
        return as_input_error(
            lambda: VariantLadder(
                [Rung(v.name, self.rows_per_second(v, 1), v.quality) for v in self.variants], self.policies.ladder
            )
        )


def _require(condition: bool, what: str, hint: str) -> None:
    if not condition:
        raise InputError(what, hint=hint)
