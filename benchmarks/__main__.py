"""python -m benchmarks COMMAND: measures recfx beside other compilers, its cost model, its placement and its serving."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from benchmarks.commands import machine, models, served, side_by_side
from recfx.command_line import run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status: 1 after an error, 2 if recfx failed or gave wrong answers. Wrong answers
    of other peers are named in the table."""
    return run_command(_parser(), argv)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Side-by-side benchmarks.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for group in (side_by_side, models, machine, served):
        group.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
