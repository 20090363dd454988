"""Instruments observe every pass, and write the records of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline_cases import RELU, chain, drop_double_relu, targets

from recfx.ir import Program
from recfx.passes import Canonicalize
from recfx.pipeline import (
    Dump,
    Instrument,
    Pass,
    PassRecord,
    Pipeline,
    PrintAfter,
    Timing,
)


def record_of(seconds: float, verified_in: float, fired: int = 2) -> PassRecord:
    return PassRecord("text", "exact", fired, (), (1, 1), (0, 0), seconds, verified_in)


def test_instruments_write_what_was_recorded(tmp_path: Path) -> None:
    lines: list[str] = []
    every, some, timing = PrintAfter(lines.append), PrintAfter(lines.append, ["canonicalize"]), Timing()
    folder = tmp_path / "a" / "b"
    dump = Dump(folder)
    before, after, record = chain(RELU, RELU), chain(RELU), record_of(0.0123, 0.5)
    for index, item in enumerate((drop_double_relu, Canonicalize())):
        for instrument in (every, some, timing, dump):
            instrument.before_pass(index, item, before)
            instrument.after_pass(index, item, before, after if index == 0 else before, record)
    title = "# after {} (2 rewrites, 12.3 ms)\n"
    assert lines == [
        title.format("drop-double-relu") + str(after),
        title.format("canonicalize") + str(before),
        title.format("canonicalize") + str(before),
    ]
    assert timing.seconds == {"00-drop-double-relu": (0.0123, 0.5), "01-canonicalize": (0.0123, 0.5)}
    entry = {"run_s": 0.0123, "verify_s": 0.5, "rewrites": 2}
    text = (folder / "timing.json").read_text()
    assert json.loads(text) == {"00-drop-double-relu": entry, "01-canonicalize": entry}
    assert text.startswith('{\n "00-drop-double-relu": {\n  "run_s"')
    assert text.endswith("}\n")
    ends = ("after.txt", "before.txt", "diff")
    assert sorted(p.name for p in folder.glob("0*")) == [f"00-drop-double-relu.{end}" for end in ends]
    assert (folder / "00-drop-double-relu.before.txt").read_text() == f"{before}\n"
    assert (folder / "00-drop-double-relu.after.txt").read_text() == f"{after}\n"


def test_instruments_are_called_around_each_pass() -> None:
    calls: list[Any] = []

    class Watch(Instrument):
        def before_pass(self, index: int, item: Pass, program: Program) -> None:
            calls.append(("before", index, str(item), len(targets(program))))

        def after_pass(self, index: int, item: Pass, before: Program, after: Program, record: PassRecord) -> None:
            calls.append(("after", index, record.text, len(targets(before)), len(targets(after))))

    Pipeline(["canonicalize", drop_double_relu]).run(chain(RELU, RELU), instruments=[Watch(), Instrument()])
    assert calls == [
        ("before", 0, "canonicalize", 2),
        ("after", 0, "canonicalize", 2, 2),
        ("before", 1, "drop-double-relu", 2),
        ("after", 1, "drop-double-relu", 2, 1),
    ]
