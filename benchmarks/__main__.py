"""python -m benchmarks COMMAND: measures recfx beside other compilers, its cost model, its placement and its serving."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks import (
    compile_time,
    compression,
    cost_accuracy,
    live_rows,
    placement_regret,
    pruning,
    pruning_peers,
    random_models,
    retrieval,
    tails,
)
from benchmarks.markdown import markdown
from benchmarks.papers import estimators
from benchmarks.progress import ProgressLine
from benchmarks.registry import GROUPS, all_cases, all_peers, select
from benchmarks.results import Results
from benchmarks.runner import run
from benchmarks.settings import BASELINE, Settings
from benchmarks.table import render
from recfx.command_line import add_option, integers, listed, positive, run_command, seconds


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status: 1 after an error, 2 if recfx failed or gave wrong answers. Wrong answers
    of other peers are named in the table."""
    return run_command(_parser(), argv)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Side-by-side benchmarks.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

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

    listing = commands.add_parser("list", help="cases and peers")
    listing.set_defaults(run=_list)

    table = commands.add_parser("table", help="show stored results")
    table.add_argument("results", type=Path)
    table.set_defaults(run=_table)

    found = commands.add_parser("retrieval", help="measure retrieval and compare it with FAISS")
    found.add_argument("--items", type=int, default=1_000_000, help="default: %(default)s")
    found.add_argument("--rounds", type=int, default=15, help="turns of each search (default: %(default)s)")
    add_option(found, "threads", 1, "default: %(default)s")
    found.set_defaults(run=_retrieval)

    pairs = commands.add_parser("estimators", help="train students with two estimators over several seeds")
    pairs.add_argument("--data", default="gowalla", help="as `recfx bench hqgnn` takes it (default: %(default)s)")
    pairs.add_argument(
        "--out", type=Path, required=True, help="folder of the results; runs with a result in it are not repeated"
    )
    pairs.add_argument("--seeds", type=int, default=5, help="default: %(default)s")
    pairs.add_argument("--bits", type=integers, default=(1, 2), help="default: 1,2")
    pairs.add_argument("--bounds", default="centred-row", help="default: %(default)s")
    pairs.add_argument("--pair", default="ste,gste", help="two estimators (default: %(default)s)")
    pairs.add_argument("--epochs", type=int, help="epochs of a student, instead of the recipe's")
    pairs.add_argument("--lr", type=float, help="learning rate of a student at 1 bit, instead of the recipe's")
    pairs.set_defaults(run=_estimators)

    slow = commands.add_parser("tails", help="measure percentiles of single calls, alone and disturbed")
    slow.add_argument("--threads", type=integers, default=(1, 2), help="default: 1,2")
    slow.add_argument("--batches", type=integers, default=(1, 16, 64, 256), help="default: 1,16,64,256")
    slow.add_argument(
        "--conditions", default=",".join(tails.CONDITIONS), help="separated by commas (default: %(default)s)"
    )
    add_option(slow, "seconds", 4.0, "of each model at a point (default: %(default)s)")
    slow.set_defaults(run=_tails)

    pruned = commands.add_parser(
        "pruning", help="train click models, prune and fine-tune them, and measure what it costs and saves"
    )
    pruned.add_argument("--data", help="a Criteo file or folder (default: generated clicks)")
    pruned.add_argument("--models", default=",".join(pruning.PARTS), help="separated by commas (default: %(default)s)")
    pruned.add_argument("--seeds", type=int, default=3, help="default: %(default)s")
    pruned.add_argument("--batches", type=integers, default=(1, 16, 256, 1024), help="default: 1,16,256,1024")
    pruned.add_argument("--rounds", type=int, default=15, help="turns of each model (default: %(default)s)")
    pruned.add_argument("--rows", type=int, help="the largest number of rows to read")
    pruned.add_argument("--pruning", default=pruning.PRUNING, help="the passes that prune (default: %(default)s)")
    pruned.set_defaults(run=_pruning)

    beside = commands.add_parser(
        "pruning-peers", help="prune trained click models by recfx and by torch-pruning, at equal multiply-adds"
    )
    beside.add_argument("--data", help="a Criteo file or folder (default: generated clicks)")
    beside.add_argument("--models", default=",".join(pruning.PARTS), help="separated by commas (default: %(default)s)")
    beside.add_argument("--seeds", type=int, default=3, help="default: %(default)s")
    beside.add_argument(
        "--ratio", type=float, default=0.5, help="part of the channels to remove (default: %(default)s)"
    )
    beside.add_argument("--rows", type=int, help="the largest number of rows to read")
    beside.set_defaults(run=_pruning_peers)

    compiled = commands.add_parser(
        "compile-time", help="measure how long optimize takes, stage by stage, and its memory"
    )
    compiled.add_argument("cases", nargs="*", help=f"default: {' '.join(compile_time.CASES)}")
    compiled.add_argument("--precision", default="fp32", help="default: %(default)s")
    compiled.set_defaults(run=_compile_time)

    served = commands.add_parser("serving", help="the largest load of recfx serve and of plain web applications")
    served.add_argument("models", nargs="*", help="dlrm, deepfm, din (default: all)")
    served.add_argument("--sizes", default="mlperf", help="rows of a request (default: %(default)s)")
    add_option(served, "seconds", 5.0, "length of each trial (default: %(default)s)")
    served.add_argument(
        "--ray", action="store_true", help="beside Ray Serve's own @serve.batch in place of plain web applications"
    )
    served.set_defaults(run=_serving)

    crowd = commands.add_parser("crowd", help="several times as many requests as recfx serve can answer, for a while")
    crowd.add_argument("model", nargs="?", default="deepfm", help="dlrm, deepfm, din (default: %(default)s)")
    crowd.add_argument("--sizes", default="mlperf", help="rows of a request (default: %(default)s)")
    crowd.add_argument("--factor", type=seconds, default=3.0, help="load / capacity (default: %(default)s)")
    add_option(crowd, "seconds", 30.0, "length of the crowd (default: %(default)s)")
    crowd.set_defaults(run=_crowd)

    again = commands.add_parser("reloads", help="requests while recfx serve loads its model again, and when it ends")
    again.add_argument("model", nargs="?", default="deepfm", help="dlrm, deepfm, din (default: %(default)s)")
    again.add_argument("--requests", type=positive, default=20_000, help="default: %(default)s")
    again.add_argument("--rate", type=seconds, default=400.0, help="requests per second (default: %(default)s)")
    again.set_defaults(run=_reloads)

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

    predicted = commands.add_parser("cost-model", help="compare predicted times with measured ones")
    predicted.add_argument("models", nargs="*", help=f"models of the zoo (default: {' '.join(cost_accuracy.MODELS)})")
    predicted.add_argument("--backends", default="native,eager", help="separated by commas (default: %(default)s)")
    predicted.add_argument("--batches", type=integers, default=(1, 16, 256, 1024), help="default: 1,16,256,1024")
    add_option(predicted, "threads", 1, "default: %(default)s")
    predicted.add_argument("--out", type=Path, help="file for all times, as JSON")
    predicted.set_defaults(run=_cost_model)

    placed = commands.add_parser("placement", help="compare the plans that placement chooses with many others")
    placed.add_argument("cases", nargs="*", help="cases, patterns, or groups as in `run` (default: @mixed)")
    placed.add_argument("--batches", type=integers, default=(1, 16, 256), help="default: 1,16,256")
    placed.add_argument("--predicted", type=int, default=50, help="plans by predicted time (default: %(default)s)")
    placed.add_argument("--drawn", type=int, default=50, help="plans drawn at random (default: %(default)s)")
    add_option(placed, "seconds", 3.0, "of the comparison at a batch size (default: %(default)s)")
    add_option(placed, "threads", 1, "default: %(default)s")
    add_option(placed, "seed", 0)
    placed.set_defaults(run=_placement)

    small = commands.add_parser(
        "compression", help="AUC and bytes of trained models within an accuracy budget; can be resumed"
    )
    small.add_argument("models", nargs="*", help=f"models of the zoo (default: {' '.join(compression.MODELS)})")
    small.add_argument("--data", type=Path, help="file or folder as `recfx demo` takes it; generated data without it")
    small.add_argument("--out", type=Path, required=True, help="file for all results, as JSON")
    small.add_argument("--seeds", type=int, default=3, help="default: %(default)s")
    small.add_argument("--budget", type=float, default=1e-3, help="largest drop of AUC (default: %(default)s)")
    add_option(small, "seconds", 120.0, "limit of the training of a model (default: %(default)s)")
    small.add_argument("--rows", type=int, help="the most rows of click-through data")
    small.add_argument("--dim", type=int, help="columns of the tables")
    small.add_argument("--ablation", action="store_true", help="also each component alone, and all but one")
    small.add_argument("--prefer", default="both", help="what to save: bytes, time or both (default: both)")
    small.add_argument("--timing", type=float, default=5.0, help="seconds for times, 0 for none (default: %(default)s)")
    add_option(small, "threads", 1, "default: %(default)s")
    small.set_defaults(run=_compression)

    drawn = commands.add_parser("random-models", help="compare drawn models with eager; can be resumed")
    drawn.add_argument("--models", type=int, default=100_000, help="default: %(default)s")
    drawn.add_argument(
        "--out", type=Path, required=True, help="file of the results; runs with a result in it are not repeated"
    )
    drawn.add_argument(
        "--chunk", type=int, default=random_models.CHUNK, help="models per process (default: %(default)s)"
    )
    add_option(drawn, "workers", 1)
    drawn.set_defaults(run=_random_models)
    return parser


def _estimators(options: argparse.Namespace) -> int:
    pair = listed(options.pair)
    plan = estimators.Plan(
        options.data, options.out, options.seeds, options.bits, options.bounds, pair, options.epochs, options.lr
    )
    print(estimators.compare(plan))
    return 0


def _live_rows(options: argparse.Namespace) -> int:
    torch.set_num_threads(1)
    case = live_rows.Case(options.rows, options.update, options.rate, options.batch, options.seconds)
    found = live_rows.measure(
        options.formats or list(live_rows.FORMATS), case, lambda line: print(line, file=sys.stderr, flush=True)
    )
    print(live_rows.report(found))
    return 0


def _cost_model(options: argparse.Namespace) -> int:
    torch.set_num_threads(options.threads)
    models, backends = options.models or cost_accuracy.MODELS, listed(options.backends)
    pairs = cost_accuracy.measure(
        models, backends, options.batches, tell=lambda line: print(line, file=sys.stderr, flush=True)
    )
    if options.out is not None:
        options.out.write_text(json.dumps([dataclasses.asdict(pair) for pair in pairs]))
    print(cost_accuracy.report(pairs))
    return 0


def _placement(options: argparse.Namespace) -> int:
    torch.set_num_threads(options.threads)
    cases = select(all_cases(), options.cases or ["@mixed"], "case", GROUPS)
    sample = placement_regret.Sample(options.predicted, options.drawn, options.seconds, options.seed)
    found = placement_regret.measure(
        cases, options.batches, sample, lambda line: print(line, file=sys.stderr, flush=True)
    )
    print(placement_regret.report(found))
    return 0


def _random_models(options: argparse.Namespace) -> int:
    for chunk in random_models.measure(options.models, options.out, options.chunk, options.workers):
        print(f"chunk {chunk.seed}: {chunk.models} models, {len(chunk.findings)} findings", file=sys.stderr, flush=True)
    chunks = random_models.read(options.out)
    print(random_models.summary(chunks))
    return 2 if any(chunk.findings for chunk in chunks) else 0


def _compression(options: argparse.Namespace) -> int:
    torch.set_num_threads(options.threads)
    models = tuple(options.models) or compression.MODELS
    plan = compression.Plan(
        models,
        options.data,
        options.seeds,
        options.budget,
        options.seconds,
        options.rows,
        options.dim,
        options.ablation,
        options.timing,
        options.prefer,
    )
    rows = compression.measure(plan, options.out, tell=lambda line: print(line, file=sys.stderr, flush=True))
    print(compression.report(rows))
    return 0


def _compile_time(options: argparse.Namespace) -> int:
    print(compile_time.measure(options.cases or list(compile_time.CASES), options.precision))
    return 0


def _pruning(options: argparse.Namespace) -> int:
    torch.set_num_threads(1)
    models = listed(options.models)
    found = pruning.Settings(
        options.data, models, options.seeds, options.batches, options.rounds, options.rows, pruning=options.pruning
    )
    print(pruning.measure(found))
    return 0


def _pruning_peers(options: argparse.Namespace) -> int:
    torch.set_num_threads(1)
    models = listed(options.models)
    print(
        pruning_peers.measure(pruning_peers.Settings(options.data, models, options.seeds, options.ratio, options.rows))
    )
    return 0


def _tails(options: argparse.Namespace) -> int:
    conditions = listed(options.conditions)
    print(tails.measure(options.threads, options.batches, conditions, options.seconds))
    return 0


def _serving(options: argparse.Namespace) -> int:
    from benchmarks.serving.run import main as run_serving

    return run_serving(options.models, options.sizes, options.seconds, ray=options.ray)


def _crowd(options: argparse.Namespace) -> int:
    from benchmarks.serving.crowd import main as run_crowd

    return run_crowd(options.model, options.sizes, options.seconds, options.factor)


def _reloads(options: argparse.Namespace) -> int:
    from benchmarks.serving.reloads import main as run_reloads

    return run_reloads(options.model, options.requests, options.rate)


def _retrieval(options: argparse.Namespace) -> int:
    print(retrieval.measure(options.items, options.rounds, options.threads))
    return 0


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


if __name__ == "__main__":
    sys.exit(main())
