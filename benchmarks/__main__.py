"""python -m benchmarks run | list | table."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.progress import ProgressLine
from benchmarks.registry import all_cases, all_peers, select
from benchmarks.results import Results
from benchmarks.runner import BASELINE, Settings, run
from benchmarks.table import markdown, render
from recfx.errors import RecfxError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status: 1 when something cannot be done, 2 when a peer gave wrong answers."""
    options = _parser().parse_args(argv)
    try:
        status: int = options.command(options)
    except RecfxError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("benchmarks: interrupted", file=sys.stderr)
        return 130
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Side-by-side benchmarks.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    start = commands.add_parser("run", help="measure")
    start.add_argument("cases", nargs="*", help="cases or patterns such as 'dlrm*' (default: all but the large ones)")
    start.add_argument("--peers", default="eager,recfx,torch.compile", help="default: %(default)s; * for all")
    start.add_argument("--batch", type=_integers, default=(1, 16, 64), help="batch sizes (default: 1,16,64)")
    start.add_argument("--threads", type=_integers, default=(1,), help="numbers of threads (default: 1)")
    start.add_argument(
        "--zipf", type=_exponents, default=(None,), help="distributions of ids: uniform or exponents (default: uniform)"
    )
    start.add_argument("--seconds", type=float, default=1.0, help="time per peer and point (default: 1)")
    start.add_argument(
        "--footprint", type=int, default=64, help="MiB of table rows that the inputs in turn shall touch (default: 64)"
    )
    start.add_argument("--seed", type=int, default=0)
    start.add_argument("--out", type=Path, help="file for the results, as JSON; always holds what there is so far")
    start.set_defaults(command=_run)

    listing = commands.add_parser("list", help="cases and peers")
    listing.set_defaults(command=_list)

    table = commands.add_parser("table", help="show stored results")
    table.add_argument("results", type=Path)
    table.set_defaults(command=_table)
    return parser


def _run(options: argparse.Namespace) -> int:
    known = all_cases()
    wanted = options.cases or [name for name, case in known.items() if not case.large]
    cases = select(known, wanted, "case")
    names = options.peers.split(",")
    peers = select(all_peers(), names if BASELINE in names else [BASELINE, *names], "peer")
    settings = Settings(
        batches=options.batch,
        threads=options.threads,
        zipfs=options.zipf,
        seconds=options.seconds,
        footprint=options.footprint * 2**20,
        seed=options.seed,
    )
    points = len(cases) * len(settings.batches) * len(settings.threads) * len(settings.zipfs)
    with ProgressLine(points, options.out) as line:
        results = run(cases, peers, settings, watcher=line)
    print(render(results), end="")
    return 2 if any(measurement.status == "wrong" for measurement in results.measurements) else 0


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


def _integers(text: str) -> tuple[int, ...]:
    """Comma-separated integers."""
    return tuple(int(part) for part in text.split(","))


def _exponents(text: str) -> tuple[float | None, ...]:
    """Comma-separated exponents, or the word uniform."""
    return tuple(None if part == "uniform" else float(part) for part in text.split(","))


if __name__ == "__main__":
    sys.exit(main())
