"""The arguments of `recfx compress`."""

from __future__ import annotations

import argparse
from pathlib import Path

from recfx.command_line import add_option, positive


def add_compress(command: argparse.ArgumentParser) -> None:
    """Adds the arguments of `recfx compress`."""
    add = command.add_argument
    add(
        "model",
        help="SCRIPT.py:function, which returns (model, example inputs), or a dict of arguments of recfx.optimize",
    )
    add("--data", type=Path, help="file or folder of rows for (dense, sparse) models, as `recfx demo --data` takes it")
    add("--label", metavar="COLUMN", help="the column of labels, 0 or 1, of a CSV or Parquet file")
    add("--rows", type=positive, help="use at most this many rows of data")
    ways = command.add_mutually_exclusive_group(required=True)
    ways.add_argument("--budget", type=float, help="how much AUC may be lost, such as 0.001; needs -o")
    ways.add_argument("--pareto", type=Path, metavar="DIR", help="folder for several forms, from accurate to small")
    add("-o", "--output", type=Path, help="folder to save the compressed model in, such as model.recfx")
    add("--prefer", default="both", help="what to save inside the budget: bytes, time or both (default: both)")
    add("--points", type=positive, default=9, help="the most forms of --pareto (default: %(default)s)")
    add("--max-drop", type=float, default=1e-2, help="about the largest drop of --pareto (default: %(default)s)")
    add("--target", help="where the model runs (default: cpu)")
    add_option(command, "threads")
    add_option(command, "seed", 0)
