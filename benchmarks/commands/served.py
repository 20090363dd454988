"""Commands that measure recfx serve, and rows that are written while a model is called."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import torch

from benchmarks import live_rows
from recfx.command_line import add_option, positive, seconds


def add(commands: Any) -> None:
    """Adds the commands to the subparsers of a parser."""
    _add_serving(commands)
    _add_crowd(commands)
    _add_reloads(commands)
    _add_live_rows(commands)


def _add_serving(commands: Any) -> None:
    served = commands.add_parser("serving", help="the largest load of recfx serve and of plain web applications")
    served.add_argument("models", nargs="*", help="dlrm, deepfm, din (default: all)")
    served.add_argument("--sizes", default="mlperf", help="rows of a request (default: %(default)s)")
    add_option(served, "seconds", 5.0, "length of each trial (default: %(default)s)")
    served.add_argument(
        "--ray", action="store_true", help="beside Ray Serve's own @serve.batch in place of plain web applications"
    )
    served.set_defaults(run=_serving)


def _add_crowd(commands: Any) -> None:
    crowd = commands.add_parser("crowd", help="several times as many requests as recfx serve can answer, for a while")
    crowd.add_argument("model", nargs="?", default="deepfm", help="dlrm, deepfm, din (default: %(default)s)")
    crowd.add_argument("--sizes", default="mlperf", help="rows of a request (default: %(default)s)")
    crowd.add_argument("--factor", type=seconds, default=3.0, help="load / capacity (default: %(default)s)")
    add_option(crowd, "seconds", 30.0, "length of the crowd (default: %(default)s)")
    crowd.set_defaults(run=_crowd)


def _add_reloads(commands: Any) -> None:
    again = commands.add_parser("reloads", help="requests while recfx serve loads its model again, and when it ends")
    again.add_argument("model", nargs="?", default="deepfm", help="dlrm, deepfm, din (default: %(default)s)")
    again.add_argument("--requests", type=positive, default=20_000, help="default: %(default)s")
    again.add_argument("--rate", type=seconds, default=400.0, help="requests per second (default: %(default)s)")
    again.set_defaults(run=_reloads)


def _add_live_rows(commands: Any) -> None:
    rows = commands.add_parser("live-rows", help="write new rows of tables while a model is called")
    rows.add_argument("formats", nargs="*", help=f"default: {' '.join(live_rows.FORMATS)}")
    rows.add_argument(
        "--rows", type=positive, default=500_000, help="of two tables of 64 columns (default: %(default)s)"
    )
    rows.add_argument("--update", type=positive, default=10_000, help="rows of an update (default: %(default)s)")
    rows.add_argument("--rate", type=seconds, default=1e6, help="rows per second at most (default: %(default)g)")
    rows.add_argument("--batch", type=positive, default=100, help="rows of a request (default: %(default)s)")
    add_option(rows, "seconds", 10.0, "of requests, half of them with updates (default: %(default)s)")
    rows.set_defaults(run=_live_rows)


def _serving(options: argparse.Namespace) -> int:
    from benchmarks.serving.run import main as run_serving

    return run_serving(options.models, options.sizes, options.seconds, ray=options.ray)


def _crowd(options: argparse.Namespace) -> int:
    from benchmarks.serving.crowd import main as run_crowd

    return run_crowd(options.model, options.sizes, options.seconds, options.factor)


def _reloads(options: argparse.Namespace) -> int:
    from benchmarks.serving.reloads import main as run_reloads

    return run_reloads(options.model, options.requests, options.rate)


def _live_rows(options: argparse.Namespace) -> int:
    torch.set_num_threads(1)
    case = live_rows.Case(options.rows, options.update, options.rate, options.batch, options.seconds)
    found = live_rows.measure(
        options.formats or list(live_rows.FORMATS), case, lambda line: print(line, file=sys.stderr, flush=True)
    )
    print(live_rows.report(found))
    return 0
