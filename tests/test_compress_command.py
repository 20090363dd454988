"""The arguments of `recfx compress`."""

from __future__ import annotations

from pathlib import Path

from recfx.cli import command_parser


def test_arguments_of_both_ways() -> None:
    parse = command_parser().parse_args
    found = parse(["compress", "m.py:f", "--budget", "0.001", "-o", "out", "--data", "d.npz", "--rows", "9"])
    assert (found.budget, found.output, found.data, found.rows) == (0.001, Path("out"), Path("d.npz"), 9)
    found = parse(["compress", "m.py:f", "--pareto", "front", "--points", "5", "--max-drop", "0.02"])
    assert (found.pareto, found.points, found.max_drop, found.budget) == (Path("front"), 5, 0.02, None)
