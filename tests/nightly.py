"""Runs the nightly checks one after another: `python tests/nightly.py [PART ...]`.

Parts: "tests" (long property-based tests and mutated saved models), "sanitizers" (every instruction-set level of this
processor), "mutants" and "random" (drawn models against eager), both continued from earlier nights. All parts by
default. A failed part does not stop the following parts; the exit status says whether all passed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
RANDOM_MODELS = ROOT / "build" / "random-models.json"
MUTANTS, REACH, MUTANTS_SECONDS = ROOT / "build" / "mutants.jsonl", ROOT / "build" / "mutants-reach.jsonl", 6 * 3600
PARTS = ("tests", "sanitizers", "mutants", "random")


def levels() -> tuple[str, ...]:
    """The instruction-set levels that this processor runs."""
    from recfx.kernels.library import library

    return library().levels


def commands(parts: list[str]) -> Iterator[list[str]]:
    """The arguments of Python for every step of the parts."""
    if "tests" in parts:
        yield ["-m", "pytest", "-m", "nightly", "-n", "auto", "--dist", "worksteal"]
    if "sanitizers" in parts:
        yield from (["tests/sanitize.py", level] for level in levels())
    if "mutants" in parts:
        yield [
            "-m",
            "tests.mutants",
            "--results",
            str(MUTANTS),
            "--reach",
            str(REACH),
            "--seconds",
            str(MUTANTS_SECONDS),
        ]
        yield ["-m", "tests.mutants.kernels"]
    if "random" in parts:
        yield ["-m", "benchmarks", "random-models", "--out", str(RANDOM_MODELS)]


def run(parts: list[str]) -> int:
    """Runs the parts and prints the result of each step."""
    lines = []
    for arguments in commands(parts):
        start = time.monotonic()
        code = subprocess.run([sys.executable, *arguments], cwd=ROOT, check=False).returncode
        verdict = "passed" if code == 0 else f"failed ({code})"
        lines.append(f"{verdict:12} {(time.monotonic() - start) / 60:6.1f} min   {' '.join(arguments)}\n")
    sys.stdout.writelines(lines)
    return int(any(not line.startswith("passed") for line in lines))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="nightly", description=__doc__)
    made.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all by default")
    made.set_defaults(run=lambda options: run(_known(options.parts) or list(PARTS)))
    return made


def _known(parts: list[str]) -> list[str]:
    from recfx.errors import InputError

    if unknown := sorted(set(parts) - set(PARTS)):
        raise InputError(f"there is no part {unknown[0]!r}", hint=f"one of {', '.join(PARTS)}")
    return parts


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    from recfx.command_line import run_command

    sys.exit(run_command(parser()))
