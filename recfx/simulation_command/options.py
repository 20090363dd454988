"""The options of `recfx simulate`."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from recfx.command_line import add_option, minutes, not_negative, positive, seconds


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
    add(
        "--grace",
        type=minutes,
        default=math.inf,
        metavar="MS",
        help="how late an admitted request may be answered; one that would be later is dropped (default: however late)",
    )
    add("--split", action="store_true", help="split batches over idle cores")
    add("--no-admission", action="store_true", help="admit requests whose deadline cannot be met")
    add("--no-ladder", action="store_true", help="keep the first variant")
    add("--scale", metavar="LEAST:MOST", help="change the number of replicas with the load")
