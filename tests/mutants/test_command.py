"""The command of the mutation tests starts: it must not import recfx before it makes mutants."""

from __future__ import annotations

import subprocess
import sys

from tests.mutants.mirror import ROOT


def test_the_command_starts_and_counts() -> None:
    command = [sys.executable, "-m", "tests.mutants", "recfx/ir/dead_code.py", "--sample", "1", "--seconds", "0"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert "0 of 0 mutants noticed" in ended.stdout
