"""Instruments: observers of a pipeline run (timing, printing, dumping). They do not change programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path

from recfx.ir.diff import diff
from recfx.ir.printer import render
from recfx.ir.program import Program
from recfx.pipeline.base import Pass
from recfx.pipeline.records import PassRecord


class Instrument:
    """The base class of instruments; override the methods you need. `index` is the position of the pass, from 0."""

    def before_pass(self, index: int, item: Pass, program: Program) -> None:
        """Called before each pass with the program it will get."""

    def after_pass(self, index: int, item: Pass, before: Program, after: Program, record: PassRecord) -> None:
        """Called after each verified pass."""


class Announce(Instrument):
    """Names each pass before it runs.

    Args:
        begin: Called with the text.
    """

    def __init__(self, begin: Callable[[str], object]) -> None:
        self._begin = begin

    def before_pass(self, index: int, item: Pass, program: Program) -> None:
        self._begin(f"pass {item.spec.name}")


class PrintAfter(Instrument):
    """Prints the program after passes.

    Args:
        write: Called with the text, such as `print`.
        passes: Names of the passes; all by default.
    """

    def __init__(self, write: Callable[[str], object], passes: Collection[str] = ()) -> None:
        self._write = write
        self._passes = frozenset(passes)

    def after_pass(self, index: int, item: Pass, before: Program, after: Program, record: PassRecord) -> None:
        if not self._passes or item.spec.name in self._passes:
            self._write(f"# after {item} ({record.fired} rewrites, {record.seconds * 1e3:.1f} ms)\n{render(after)}")


class Timing(Instrument):
    """Collects the time of each pass.

    Attributes:
        seconds: Pass, as "NN-name" -> seconds of the pass, and of the verification after it.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, tuple[float, float]] = {}

    def after_pass(self, index: int, item: Pass, before: Program, after: Program, record: PassRecord) -> None:
        self.seconds[f"{index:02d}-{item.spec.name}"] = (record.seconds, record.verify_seconds)


class Dump(Instrument):
    """Writes `NN-pass.before.txt`, `.after.txt` and `.diff` for every pass that changed something, and `timing.json`.

    Args:
        folder: The folder; created if it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._timing: dict[str, dict[str, float]] = {}

    def after_pass(self, index: int, item: Pass, before: Program, after: Program, record: PassRecord) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        stem = f"{index:02d}-{item.spec.name}"
        self._timing[stem] = {
            "run_s": record.seconds,
            "verify_s": record.verify_seconds,
            "rewrites": record.fired,
        }
        (self.folder / "timing.json").write_text(json.dumps(self._timing, indent=1) + "\n")
        changes = diff(before, after)
        if changes:
            (self.folder / f"{stem}.before.txt").write_text(render(before) + "\n")
            (self.folder / f"{stem}.after.txt").write_text(render(after) + "\n")
            (self.folder / f"{stem}.diff").write_text(changes + "\n")
