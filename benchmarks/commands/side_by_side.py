"""Commands that measure recfx beside other compilers, and show stored results."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.markdown import markdown
from benchmarks.progress import ProgressLine
from benchmarks.registry import GROUPS, all_cases, all_peers, select
from benchmarks.results import Results
from benchmarks.runner import run
from benchmarks.settings import BASELINE, Settings
from benchmarks.table import render
from recfx.command_line import add_option, integers, listed


def add(commands: Any) -> None:
    """Adds the commands to the subparsers of a parser."""
    _add_run(commands)
    _add_list(commands)
    _add_table(commands)


def _add_run(commands: Any) -> None:
    start = commands.add_parser("run", help="measure")
    start.add_argument(
        "cases",
        nargs="*",
        help="cases, patterns such as 'dlrm*', or @standard, @request, @lookup; default: the small ones",
    )
    start.add_argument("--cases", dest="more_cases", default="", help="cases or patterns, separated by commas")
    start.add_argument(
        "--peers",
        default="eager,recfx,torch.compile",
        help="default: %(default)s; * for all, !name to leave out a peer",
    )
    start.add_argument("--batches", type=integers, default=(1, 16, 64), help="batch sizes (default: 1,16,64)")
    start.add_argument(
        "--candidates",
        type=integers,
        default=(100, 500, 2000),
        help="numbers of candidates for request cases (default: 100,500,2000)",
    )
    start.add_argument("--threads", type=integers, default=(1,), help="numbers of threads (default: 1)")
    start.add_argument(
        "--ids",
        "--zipf",
        type=_exponents,
        default=(None,),
        help="distributions of ids: uniform, or exponents of Zipf distributions (default: uniform)",
    )
    add_option(start, "seconds", 1.0, "seconds for each peer and point (default: %(default)s)")
    start.add_argument(
        "--rounds", type=int, default=15, help="least number of turns of each peer at a point (default: 15)"
    )
    start.add_argument(
        "--budget",
        type=float,
        default=300.0,
        help="limit of the seconds in which a peer prepares at a point, 0 for no limit (default: 300)",
    )
    start.add_argument(
        "--footprint",
        type=int,
        default=64,
        help="MiB of table rows that the rotated inputs read together (default: 64)",
    )
    add_option(start, "seed", 0)
    start.add_argument("--out", type=Path, help="file for the results, as JSON; always holds the results so far")
    start.add_argument("--resume", action="store_true", help="continue from the results in this file")
    start.set_defaults(run=_run)


def _add_list(commands: Any) -> None:
    listing = commands.add_parser("list", help="cases and peers")
    listing.set_defaults(run=_list)


def _add_table(commands: Any) -> None:
    table = commands.add_parser("table", help="show stored results")
    table.add_argument("results", type=Path)
    table.set_defaults(run=_table)


def _run(options: argparse.Namespace) -> int:
    known = all_cases()
    asked = [*options.cases, *listed(options.more_cases)]
    cases = select(known, asked or [name for name, case in known.items() if not case.large], "case", GROUPS)
    names = listed(options.peers)
    peers = select(all_peers(), names if BASELINE in names else [BASELINE, *names], "peer")
    settings = Settings(
        batches=options.batches,
        candidates=options.candidates,
        threads=options.threads,
        zipfs=options.ids,
        seconds=options.seconds,
        rounds=options.rounds,
        budget=options.budget or None,
        footprint=options.footprint * 2**20,
        seed=options.seed,
    )
    earlier = Results.load(options.out) if options.resume and options.out and options.out.exists() else None
    points = sum(len(settings.points(case)) for case in cases)
    with ProgressLine(points, options.out) as line:
        results = run(cases, peers, settings, watcher=line, earlier=earlier)
    print(render(results), end="")
    return 2 if results.own_faults() else 0


def _list(options: argparse.Namespace) -> int:
    rows = [
        [case.name, f"{case.gigabytes:.2f}", "only when named" if case.large else "", case.summary]
        for case in all_cases().values()
    ]
    print(markdown(["case", "GB", "", "sizes"], rows, {1}))
    print()
    peers = [[peer.name, peer.available() or "ready", peer.summary] for peer in all_peers().values()]
    print(markdown(["peer", "state", "what"], peers, set()))
    return 0


def _table(options: argparse.Namespace) -> int:
    print(render(Results.load(options.results)), end="")
    return 0


def _exponents(text: str) -> tuple[float | None, ...]:
    """Comma-separated exponents, or the word uniform."""
    return tuple(None if part == "uniform" else float(part) for part in listed(text))
