"""The scenario that the options of `recfx simulate` describe."""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from recfx.simulation_command.numbers import integers, numbers_of, require

if TYPE_CHECKING:
    from recfx.serve.policies import AimdConfig, DeadlineConfig
    from recfx.serve.simulator import Arrivals, Fault, Machines, Policies, Scenario, Variant


def scenario_of(options: argparse.Namespace) -> Scenario:
    """The scenario that the options describe.

    Raises:
        InputError: An option cannot be used.
    """
    from recfx.serve.simulator import Poisson, QuerySizes, Scenario

    machines = _machines(options)
    made = Scenario(
        variants=_variants(options),
        machines=machines,
        arrivals=Poisson(1.0),
        seconds=options.seconds,
        sizes=QuerySizes.of(options.sizes),
        sla_seconds=options.sla / 1e3,
        policies=_policies(options, machines),
        faults=_faults(options),
        balancers=options.balancers,
        overhead_seconds=options.overhead / 1e3,
        jitter=options.jitter,
        warm_up=options.warm_up,
        seed=options.seed,
    )
    return dataclasses.replace(made, arrivals=_arrivals(options, made))


def _variants(options: argparse.Namespace) -> tuple[Variant, ...]:
    from recfx.serve.simulator import Variant, read_profile

    paths = options.profiles
    qualities = [0.0] * len(paths)
    if options.quality is not None:
        qualities = numbers_of(options.quality, "--quality", ",")
        require(
            len(qualities) == len(paths),
            "--quality",
            options.quality,
            f"pass one number for each of the {len(paths)} profiles",
        )
    names = [path.resolve().stem for path in paths]
    return tuple(
        Variant(name, read_profile(path), quality) for name, path, quality in zip(names, paths, qualities, strict=True)
    )


def _machines(options: argparse.Namespace) -> tuple[Machines, ...]:
    from recfx.serve.simulator import Machines, read_profile

    device = None if options.device is None else read_profile(options.device)
    found = []
    for text in options.machines or ["1x1"]:
        numbers = numbers_of(text, "--machines", "x", 2, 3)
        count, cores = integers(numbers[:2], "--machines", text)
        slowdown = numbers[2] if len(numbers) == 3 else 1.0
        found.append(Machines(count, cores, slowdown, device, options.offload_rows))
    return tuple(found)


def _faults(options: argparse.Namespace) -> tuple[Fault, ...]:
    from recfx.serve.simulator import Fault

    found = []
    for text in options.slow:
        number, factor, *rest = numbers_of(text, "--slow", ":", 2, 4)
        (replica,) = integers([number], "--slow", text)
        begin, end = [*rest, *[0.0, math.inf][len(rest) :]]
        found.append(Fault(replica, begin, end, factor))
    for text in options.dies:
        number, begin, *rest = numbers_of(text, "--dies", ":", 2, 3)
        (replica,) = integers([number], "--dies", text)
        found.append(Fault(replica, begin, rest[0] if rest else math.inf))
    return tuple(found)


def _arrivals(options: argparse.Namespace, scenario: Scenario) -> Arrivals:
    from recfx.serve.simulator import Diurnal, FlashCrowd, Poisson, read_trace

    if options.trace is not None:
        require(
            options.load == "poisson", "--load", options.load, "leave it out, since --trace has a course of its own"
        )
        trace = read_trace(options.trace)
        if options.rate is None:
            return trace
        return trace.scaled(options.rate / trace.mean_rate(scenario.seconds))
    rate = options.rate
    if rate is None:
        first = scenario.variants[0]
        rows = sum(m.count * scenario.rows_per_second(first, m.cores) / m.slowdown for m in scenario.machines)
        rate = 0.5 * rows / scenario.sizes.average
    if options.load == "diurnal":
        return Diurnal(rate, options.swing, scenario.seconds)
    if options.load == "crowd":
        factor, begin, length = numbers_of(options.crowd, "--crowd", ":", 3, 3)
        return FlashCrowd(rate, factor, begin, length)
    return Poisson(rate)


def _policies(options: argparse.Namespace, machines: Sequence[Machines]) -> Policies:
    from recfx.serve.policies import AdmissionConfig, LadderConfig, ScalingConfig, SplitConfig
    from recfx.serve.simulator import Policies
    from recfx.serve.simulator.scenario import as_input_error

    scaling = None
    if options.scale is not None:
        least, most = integers(numbers_of(options.scale, "--scale", ":", 2, 2), "--scale", options.scale)
        scaling = as_input_error(lambda: ScalingConfig(least, most))
    return Policies(
        routing=options.routing,
        batching=as_input_error(lambda: _batching(options)),
        admission=None if options.no_admission else AdmissionConfig(most_rows=options.batch_rows),
        ladder=None if options.no_ladder else LadderConfig(),
        splitting=SplitConfig(max(kind.cores for kind in machines)) if options.split else None,
        scaling=scaling,
    )


def _batching(options: argparse.Namespace) -> DeadlineConfig | AimdConfig | None:
    from recfx.serve.policies import AimdConfig, DeadlineConfig

    if options.batching == "none":
        return None
    wait = options.wait / 1e3
    if options.batching == "aimd":
        return AimdConfig(options.sla / 2e3, most_rows=options.batch_rows, most_wait=wait)
    return DeadlineConfig(options.batch_rows, wait, grace=options.grace / 1e3)
