"""Writes docs/thirdparty.md: the captured models, the operators that torch runs in them, their speed, and the models
that are not captured, with the reasons. Run `python tests/thirdparty/make_table.py` after `make thirdparty` has
installed the libraries. It examines the whole corpus, or the models whose labels contain one of its arguments, stores
the results in records.json and writes the page from them.
"""

from __future__ import annotations

import importlib.metadata
import sys
import warnings
from collections.abc import Mapping

import torch
from corpus import COMPARED_BATCHES, EXAMPLE_BATCH, OWN, ModelCase, all_cases
from examine import examine
from expected import EXPECTED_FAILURES
from records import FILE, Record, load, record_of, save
from rich.progress import track

PAGE = FILE.parents[2] / "docs" / "thirdparty.md"

INTRODUCTION = """\
# Other people's models

Models of {libraries},
and models that were written for this suite in the usual forms of the field ("{own}"), are captured and optimised. Both the
captured and the optimised model are compared with the model itself in eager mode, at batches {batches}, on inputs that capture did not
see. Configurations are small and realistic; weights are random, BatchNorm statistics are not trivial. `make thirdparty` installs the
libraries (recfx depends on none of them) and runs the comparison as a test; `tests/thirdparty/make_table.py` measures and writes this
page.

{captured} of {total} models are captured and optimised. All their outputs are within 1e-5 of the eager model's largest output.
{native} of them need no operator of torch. In the default mode no model is slower than eager: if the compiled model measures slower,
at one row or at the example's batch, `optimize` keeps the model itself ("eager kept", {kept} models).

| library | models | captured | without torch |
|---|---|---|---|
"""

MODELS = """\

## Every model

"left to torch" gives the number of the compiled model's operators that torch runs, the number of all operators, and the names
(`report.left_to_torch` gives the reasons). The last columns are the time of the compiled model over the time of eager on one thread, at one
row and at a batch of
{example}: below 1 is faster. The models are small, so that these are the costs of calls rather than of arithmetic.

| model | left to torch | 1 row | {example} rows | |
|---|---|---|---|---|
"""

NOT_CAPTURED = """\

## Not captured

Capture refuses these with a `CaptureError` that says what is wrong; it never returns a model that computes something else.

| model | why | what to do |
|---|---|---|
"""

REMARKS = """\

## Captured, with a remark

| model | remark |
|---|---|
"""


def page(records: Mapping[str, Record]) -> str:
    """The page as Markdown.

    Args:
        records: The record of each model of the corpus, by label.
    """
    cases = all_cases()
    captured = [case for case in cases if records[case.label].captured]
    text = _introduction(cases, captured, records)
    text += MODELS.format(example=EXAMPLE_BATCH) + "".join(row(case.label, records[case.label]) for case in captured)
    text += NOT_CAPTURED
    for case in cases:
        if not records[case.label].captured:
            failure = EXPECTED_FAILURES[case.label]
            text += f"| {case.label} | {failure.reason} | {failure.mend} |\n"
    return text + REMARKS + "".join(row for case in captured for row in _remarks(case, records[case.label]))


def _introduction(cases: list[ModelCase], captured: list[ModelCase], records: Mapping[str, Record]) -> str:
    libraries = list(dict.fromkeys(case.library for case in cases))
    text = INTRODUCTION.format(
        libraries=", ".join(f"{name} {importlib.metadata.version(name)}" for name in libraries if name != OWN),
        own=OWN,
        batches=", ".join(map(str, COMPARED_BATCHES)),
        captured=len(captured),
        total=len(cases),
        native=sum(not records[case.label].left for case in captured),
        kept=sum(records[case.label].eager_kept for case in captured),
    )
    for library in libraries:
        taken = [case for case in captured if case.library == library]
        free = sum(not records[case.label].left for case in taken)
        text += f"| {library} | {sum(case.library == library for case in cases)} | {len(taken)} | {free} |\n"
    return text


def row(label: str, record: Record) -> str:
    """A model's line: the operators that torch runs, and its times relative to eager."""
    names = ", ".join(_operator(name) + (f" ({count})" if count > 1 else "") for name, count in record.left.items())
    left = f"{record.left_count} of {record.operators}: {names}" if record.left else "none"
    ratios = [record.ratios.get(str(rows)) for rows in (1, EXAMPLE_BATCH)]
    shown = " | ".join("" if ratio is None else f"{ratio:.2f}" for ratio in ratios)
    return f"| {label} | {left} | {shown} | {'eager kept' if record.eager_kept else ''} |\n"


def _operator(name: str) -> str:
    """An operator by its plain name."""
    return name.removeprefix("aten.").partition(".")[0] if name.startswith("aten.") else name.removesuffix(".default")


def _remarks(case: ModelCase, record: Record) -> list[str]:
    """Batches that the library's own model refuses, and the notices of capture."""
    rows = [
        f"| {case.label} | the library's own model refuses batch {batch} ({error}) |\n"
        for batch, error in record.refused.items()
    ]
    return rows + [f"| {case.label} | {note} |\n" for note in record.notices]


def main(wanted: list[str]) -> None:
    """Runs the comparison on every model, or on the models that the arguments name, and writes the page.

    Raises:
        SystemExit: A library is missing, or the capture of a model succeeds or fails against expected.py.
    """
    cases = all_cases()
    missing = sorted({case.requires for case in cases if not case.installed})
    if missing:
        raise SystemExit(f"not installed: {', '.join(missing)}; run make thirdparty first")
    torch.set_num_threads(1)
    before = load() if FILE.exists() else {}
    chosen = [c for c in cases if not wanted or c.label not in before or any(part in c.label for part in wanted)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = {}
        for case in track(chosen, "comparing models"):
            outcome = examine(case, measure=True)
            if outcome.captured == (case.label in EXPECTED_FAILURES):
                raise SystemExit(f"{case.label} is not as expected.py says: {outcome.error or 'it is captured'}")
            found[case.label] = record_of(outcome)
    records = {case.label: found.get(case.label) or before[case.label] for case in cases}
    save(records)
    PAGE.write_text(page(records))


if __name__ == "__main__":
    main(sys.argv[1:])
