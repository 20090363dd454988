"""Runs `recfx simulate`, and prints and draws the result."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from recfx.simulation_command.numbers import require, require_file
from recfx.simulation_command.scenario import scenario_of

if TYPE_CHECKING:
    from recfx.serve.simulator import Report, Scenario


def simulated(options: argparse.Namespace) -> str:
    """Runs the command, and returns its text.

    Raises:
        InputError: An option cannot be used, or a file cannot be read or written.
    """
    from recfx.progress import progress
    from recfx.serve.simulator import simulate

    require_file(options.plot, ".svg")
    require_file(options.json, ".json")
    require(options.percentile <= 100.0, "--percentile", f"{options.percentile:g}", "pass a number up to 100")
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
