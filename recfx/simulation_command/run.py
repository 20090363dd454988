"""`recfx simulate`: its options, and the scenario that they describe."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recfx.command_line import add_option, listed, minutes, not_negative, positive, seconds
from recfx.errors import InputError

if TYPE_CHECKING:
    from recfx.serve.policies import AimdConfig, DeadlineConfig
    from recfx.serve.simulator import Arrivals, Fault, Machines, Policies, Report, Scenario, Variant


def add_simulate(command: argparse.ArgumentParser) -> None:
    """Adds the options of `recfx simulate`."""
    add = command.add_argument
    add(
        "profiles",
        nargs="+",
        type=Path,
        metavar="PROFILE",
        help="measured times of a variant of the model: a JSON file of fast.profile().to_json(); the best variant first",
    )
    add("--quality", metavar="NUMBERS", help="a metric of each variant, such as its AUC: 0.8138,0.8137")
    machines = command.add_argument_group("machines")
    add = machines.add_argument
    add(
        "--machines",
        action="append",
        metavar="COUNTxCORES[xSLOWDOWN]",
        help="replicas of one kind, such as 4x2 or 2x8x1.5; may be given several times (default: 1x1)",
    )
    add("--device", type=Path, metavar="PROFILE", help="a second device of every replica, such as a GPU")
    add("--offload-rows", type=positive, default=256, help="requests of more rows run there (default: %(default)s)")
    add("--slow", action="append", default=[], metavar="REPLICA:FACTOR[:BEGIN[:END]]", help="a replica that is slow")
    add(
        "--dies",
        action="append",
        default=[],
        metavar="REPLICA:BEGIN[:END]",
        help="a replica that dies, and returns at END",
    )
    _add_load(command.add_argument_group("load"))
    _add_policies(command.add_argument_group("policies"))
    output = command.add_argument_group("output")
    add = output.add_argument
    add(
        "--find",
        choices=("rate", "replicas", "batch"),
        help="search the largest rate, the fewest replicas, or the best batch",
    )
    add(
        "--percentile",
        type=seconds,
        default=99.0,
        help="the percentile that a search keeps in the SLA (default: %(default)s)",
    )
    add(
        "--over-time",
        type=not_negative,
        default=10,
        metavar="LINES",
        help="lines of the table over time (default: %(default)s)",
    )
    add("--plot", type=Path, metavar="FILE.svg", help="draw load, latency and variants over time")
    add("--json", type=Path, metavar="FILE.json", help="write all figures")
    add_option(command, "seed", 0)


def _add_load(group: Any) -> None:
    add = group.add_argument
    add(
        "--rate", type=seconds, help="requests per second, on average without the crowd (default: half of the capacity)"
    )
    add("--load", choices=("poisson", "diurnal", "crowd"), default="poisson", help="its course (default: %(default)s)")
    add(
        "--swing",
        type=minutes,
        default=0.5,
        help="diurnal: the peak is 1 + SWING times the average (default: %(default)s)",
    )
    add("--crowd", default="3:10:30", metavar="FACTOR:BEGIN:LENGTH", help="crowd: default %(default)s")
    add(
        "--trace",
        type=Path,
        metavar="FILE.csv",
        help="a recorded load: a line `seconds` or `seconds,rate`, then numbers",
    )
    add(
        "--sizes",
        default="deeprecsys",
        help="candidates of a request: a number, normal:165,16, lognormal:5.1,0.2, uniform:100,700, deeprecsys or mlperf "
        "(default: %(default)s)",
    )
    add(
        "--sla",
        type=seconds,
        default=25.0,
        metavar="MS",
        help="deadline of a request in milliseconds (default: %(default)s)",
    )
    add(
        "--overhead",
        type=minutes,
        default=0.0,
        metavar="MS",
        help="time of network and protocol (default: %(default)s)",
    )
    add(
        "--jitter",
        type=minutes,
        default=0.0,
        help="deviation of the logarithm of a batch's time (default: %(default)s)",
    )
    add("--seconds", type=seconds, default=60.0, help="simulated time (default: %(default)s)")
    add(
        "--warm-up",
        type=minutes,
        default=0.0,
        metavar="S",
        help="seconds that the figures leave out (default: %(default)s)",
    )


def _add_policies(group: Any) -> None:
    add = group.add_argument
    add(
        "--routing",
        default="prequal",
        help="round-robin, least-in-flight, power-of-two, peak-ewma or prequal (default: %(default)s)",
    )
    add("--balancers", type=positive, default=1, help="balancers with a router each (default: %(default)s)")
    add("--batching", choices=("deadline", "aimd", "none"), default="deadline", help="default: %(default)s")
    add("--batch-rows", type=positive, default=1024, help="rows of a batch at most (default: %(default)s)")
    add(
        "--wait",
        type=minutes,
        default=0.0,
        metavar="MS",
        help="time that a free core waits for more (default: %(default)s)",
    )
    add("--split", action="store_true", help="split batches over idle cores")
    add("--no-admission", action="store_true", help="admit requests whose deadline cannot be met")
    add("--no-ladder", action="store_true", help="keep the first variant")
    add("--scale", metavar="LEAST:MOST", help="change the number of replicas with the load")


def simulated(options: argparse.Namespace) -> str:
    """Runs the command, and returns its text.

    Raises:
        InputError: An option cannot be used, or a file cannot be read or written.
    """
    from recfx.progress import progress
    from recfx.serve.simulator import simulate

    _require_file(options.plot, ".svg")
    _require_file(options.json, ".json")
    _in_range(options.percentile <= 100.0, "--percentile", f"{options.percentile:g}", "pass a number up to 100")
    scenario = scenario_of(options)
    if options.find is not None:
        head, report = _search(options, scenario)
    else:
        with progress("simulating", 100) as advance:
            done = 0

            def show(share: float) -> None:
                nonlocal done
                advance(int(100 * share) - done)
                done = int(100 * share)

            head, report = [], simulate(scenario, show)
    return "\n".join([*head, *([] if report is None else _shown(options, report))])


def _search(options: argparse.Namespace, scenario: Scenario) -> tuple[list[str], Report | None]:
    from recfx.progress import stage_line
    from recfx.serve.simulator import applied, fewest_replicas, largest_rate, tuned

    percentile, head = options.percentile, []
    with stage_line("simulating") as step:
        if options.find == "batch":
            trial, _ = tuned(scenario, percentile=percentile, step=step)
            scenario = applied(scenario, trial)
            offload = "" if trial.offload_rows is None else f", requests above {trial.offload_rows} rows offloaded"
            head.append(f"best batch: {trial.batch_rows} rows{offload}")
        if options.find == "replicas":
            found = fewest_replicas(scenario, percentile, step=step)
            head.append(f"fewest replicas: {found.value:,.0f}")
        else:
            found = largest_rate(scenario, percentile, step=step)
            head.append(f"largest rate: {found.value:,.1f} requests per second")
    head[-1] += f" with p{percentile:g} within {options.sla:g} ms"
    return [*head, ""], found.report


def _shown(options: argparse.Namespace, report: Report) -> list[str]:
    """The tables, and the files that were written."""
    from recfx.serve.simulator.plot import svg

    lines = [str(report)]
    if options.over_time:
        lines += ["", report.table_over_time(options.over_time)]
    if options.plot is not None:
        names = ", ".join(variant.name for variant in report.scenario.variants)
        options.plot.write_text(svg(report, f"{names}: {report.requests:,} requests"), encoding="utf-8")
        lines.append(f"drawn in {options.plot}")
    if options.json is not None:
        options.json.write_text(json.dumps(report.to_json(), indent=1), encoding="utf-8")
        lines.append(f"written to {options.json}")
    return lines


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
        qualities = _numbers(options.quality, "--quality", ",")
        _in_range(
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
        numbers = _numbers(text, "--machines", "x", 2, 3)
        count, cores = _integers(numbers[:2], "--machines", text)
        slowdown = numbers[2] if len(numbers) == 3 else 1.0
        found.append(Machines(count, cores, slowdown, device, options.offload_rows))
    return tuple(found)


def _faults(options: argparse.Namespace) -> tuple[Fault, ...]:
    from recfx.serve.simulator import Fault

    found = []
    for text in options.slow:
        number, factor, *rest = _numbers(text, "--slow", ":", 2, 4)
        (replica,) = _integers([number], "--slow", text)
        begin, end = [*rest, *[0.0, math.inf][len(rest) :]]
        found.append(Fault(replica, begin, end, factor))
    for text in options.dies:
        number, begin, *rest = _numbers(text, "--dies", ":", 2, 3)
        (replica,) = _integers([number], "--dies", text)
        found.append(Fault(replica, begin, rest[0] if rest else math.inf))
    return tuple(found)


def _arrivals(options: argparse.Namespace, scenario: Scenario) -> Arrivals:
    from recfx.serve.simulator import Diurnal, FlashCrowd, Poisson, read_trace

    if options.trace is not None:
        _in_range(
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
        factor, begin, length = _numbers(options.crowd, "--crowd", ":", 3, 3)
        return FlashCrowd(rate, factor, begin, length)
    return Poisson(rate)


def _policies(options: argparse.Namespace, machines: Sequence[Machines]) -> Policies:
    from recfx.serve.policies import AdmissionConfig, LadderConfig, ScalingConfig, SplitConfig
    from recfx.serve.simulator import Policies
    from recfx.serve.simulator.scenario import as_input_error

    scaling = None
    if options.scale is not None:
        least, most = _integers(_numbers(options.scale, "--scale", ":", 2, 2), "--scale", options.scale)
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
    return DeadlineConfig(options.batch_rows, wait)


def _numbers(text: str, option: str, between: str, least: int = 1, most: int = 1 << 30) -> list[float]:
    """Finite numbers between separators.

    Raises:
        InputError: A part is not a number, or there are too few or too many.
    """
    try:
        found = [float(part) for part in (listed(text) if between == "," else text.split(between))]
    except ValueError:
        found = []
    sound = least <= len(found) <= most and all(math.isfinite(number) for number in found)
    shape = between.join("1" * least) if least > 1 else "0.8138,0.8137"
    _in_range(sound, option, text, f"pass numbers such as {shape}, as `recfx simulate --help` shows")
    return found


def _integers(numbers: Sequence[float], option: str, text: str) -> list[int]:
    _in_range(
        all(number == int(number) >= 0 for number in numbers), option, text, "pass whole numbers of at least 0 there"
    )
    return [int(number) for number in numbers]


def _in_range(sound: bool, option: str, text: str, hint: str) -> None:
    if not sound:
        raise InputError(f"{option} cannot be {text!r}", where=option, hint=hint)


def _require_file(path: Path | None, suffix: str) -> None:
    """Refuses an output file that cannot be written, before the simulation.

    Raises:
        InputError: Its folder does not exist, or it has another suffix.
    """
    if path is None:
        return
    if path.suffix != suffix:
        raise InputError(
            f"the file would be {path.name}", where=str(path), hint=f"give it a name that ends with {suffix}"
        )
    if not path.resolve().parent.is_dir():
        raise InputError("the folder of the file does not exist", where=str(path), hint="make the folder first")
