"""Commands that measure single calls, predicted times, placement and retrieval."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks import cost_accuracy, placement_regret, retrieval, tails
from benchmarks.registry import GROUPS, all_cases, select
from recfx.command_line import add_option, integers, listed


def add(commands: Any) -> None:
    """Adds the commands to the subparsers of a parser."""
    _add_tails(commands)
    _add_cost_model(commands)
    _add_placement(commands)
    _add_retrieval(commands)


def _add_tails(commands: Any) -> None:
    slow = commands.add_parser("tails", help="measure percentiles of single calls, alone and disturbed")
    slow.add_argument("--threads", type=integers, default=(1, 2), help="default: 1,2")
    slow.add_argument("--batches", type=integers, default=(1, 16, 64, 256), help="default: 1,16,64,256")
    slow.add_argument(
        "--conditions", default=",".join(tails.CONDITIONS), help="separated by commas (default: %(default)s)"
    )
    add_option(slow, "seconds", 4.0, "of each model at a point (default: %(default)s)")
    slow.set_defaults(run=_tails)


def _add_cost_model(commands: Any) -> None:
    predicted = commands.add_parser("cost-model", help="compare predicted times with measured ones")
    predicted.add_argument("models", nargs="*", help=f"models of the zoo (default: {' '.join(cost_accuracy.MODELS)})")
    predicted.add_argument("--backends", default="native,eager", help="separated by commas (default: %(default)s)")
    predicted.add_argument("--batches", type=integers, default=(1, 16, 256, 1024), help="default: 1,16,256,1024")
    add_option(predicted, "threads", 1, "default: %(default)s")
    predicted.add_argument("--out", type=Path, help="file for all times, as JSON")
    predicted.set_defaults(run=_cost_model)


def _add_placement(commands: Any) -> None:
    placed = commands.add_parser("placement", help="compare the plans that placement chooses with many others")
    placed.add_argument("cases", nargs="*", help="cases, patterns, or groups as in `run` (default: @mixed)")
    placed.add_argument("--batches", type=integers, default=(1, 16, 256), help="default: 1,16,256")
    placed.add_argument("--predicted", type=int, default=50, help="plans by predicted time (default: %(default)s)")
    placed.add_argument("--drawn", type=int, default=50, help="plans drawn at random (default: %(default)s)")
    add_option(placed, "seconds", 3.0, "of the comparison at a batch size (default: %(default)s)")
    add_option(placed, "threads", 1, "default: %(default)s")
    add_option(placed, "seed", 0)
    placed.set_defaults(run=_placement)


def _add_retrieval(commands: Any) -> None:
    found = commands.add_parser("retrieval", help="measure retrieval and compare it with FAISS")
    found.add_argument("--items", type=int, default=1_000_000, help="default: %(default)s")
    found.add_argument("--rounds", type=int, default=15, help="turns of each search (default: %(default)s)")
    add_option(found, "threads", 1, "default: %(default)s")
    found.set_defaults(run=_retrieval)


def _tails(options: argparse.Namespace) -> int:
    conditions = listed(options.conditions)
    print(tails.measure(options.threads, options.batches, conditions, options.seconds))
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


def _retrieval(options: argparse.Namespace) -> int:
    print(retrieval.measure(options.items, options.rounds, options.threads))
    return 0
