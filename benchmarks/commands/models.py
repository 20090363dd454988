"""Commands that compile, compress, prune and train models, and compare drawn ones with eager."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks import compile_time, compression, pruning, pruning_peers, random_models
from benchmarks.papers import estimators
from recfx.command_line import add_option, integers, listed


def add(commands: Any) -> None:
    """Adds the commands to the subparsers of a parser."""
    _add_compile_time(commands)
    _add_compression(commands)
    _add_pruning(commands)
    _add_pruning_peers(commands)
    _add_estimators(commands)
    _add_random_models(commands)


def _add_compile_time(commands: Any) -> None:
    compiled = commands.add_parser(
        "compile-time", help="measure how long optimize takes, stage by stage, and its memory"
    )
    compiled.add_argument("cases", nargs="*", help=f"default: {' '.join(compile_time.CASES)}")
    compiled.add_argument("--precision", default="fp32", help="default: %(default)s")
    compiled.set_defaults(run=_compile_time)


def _add_compression(commands: Any) -> None:
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


def _add_pruning(commands: Any) -> None:
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


def _add_pruning_peers(commands: Any) -> None:
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


def _add_estimators(commands: Any) -> None:
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


def _add_random_models(commands: Any) -> None:
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


def _compile_time(options: argparse.Namespace) -> int:
    print(compile_time.measure(options.cases or list(compile_time.CASES), options.precision))
    return 0


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


def _estimators(options: argparse.Namespace) -> int:
    pair = listed(options.pair)
    plan = estimators.Plan(
        options.data, options.out, options.seeds, options.bits, options.bounds, pair, options.epochs, options.lr
    )
    print(estimators.compare(plan))
    return 0


def _random_models(options: argparse.Namespace) -> int:
    for chunk in random_models.measure(options.models, options.out, options.chunk, options.workers):
        print(f"chunk {chunk.seed}: {chunk.models} models, {len(chunk.findings)} findings", file=sys.stderr, flush=True)
    chunks = random_models.read(options.out)
    print(random_models.summary(chunks))
    return 2 if any(chunk.findings for chunk in chunks) else 0
