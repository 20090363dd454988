"""Runs the checks that take a night, one after another: `python tests/nightly.py [PART ...]`.

Parts: "tests" (long property-based tests and mutated saved models), "sanitizers" (every instruction-set level of this processor), "mutants"
(all of them), "random" (drawn models against eager, continued from the nights before). All by default. A part that fails does not stop
those behind it; the exit status says whether all passed.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
RANDOM_MODELS = ROOT / "build" / "random-models.json"
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
        yield ["-m", "tests.mutants"]
        yield ["-m", "tests.mutants.kernels"]
    if "random" in parts:
        yield ["-m", "benchmarks", "random-models", "--out", str(RANDOM_MODELS)]


def main(parts: list[str]) -> int:
    if unknown := set(parts) - set(PARTS):
        sys.stderr.write(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}\n")
        return 2
    lines = []
    for arguments in commands(parts or list(PARTS)):
        start = time.monotonic()
        code = subprocess.run([sys.executable, *arguments], cwd=ROOT, check=False).returncode
        verdict = "passed" if code == 0 else f"failed ({code})"
        lines.append(f"{verdict:12} {(time.monotonic() - start) / 60:6.1f} min   {' '.join(arguments)}\n")
    sys.stdout.writelines(lines)
    return int(any(not line.startswith("passed") for line in lines))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main(sys.argv[1:]))
