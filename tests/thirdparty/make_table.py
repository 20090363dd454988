"""Writes docs/thirdparty.md from a run over the corpus: which models are captured, which are not, and why.

Run it as `python tests/thirdparty/make_table.py` where `make thirdparty` has installed the libraries; the test there fails
when the page says something else than the run.
"""

from __future__ import annotations

import importlib.metadata
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from corpus import COMPARED_BATCHES, ModelCase, all_cases
from examine import Outcome, examine
from expected import EXPECTED_FAILURES
from rich.progress import track

PAGE = Path(__file__).parents[2] / "docs" / "thirdparty.md"

INTRODUCTION = """\
# Other people's models

Models of {libraries}
are captured and optimised, and both the captured and the optimised model are compared with the library's own in eager mode, at
batches {batches}, on inputs that capture did not see. Configurations are small and realistic; weights are random, BatchNorm
statistics are not trivial. `make thirdparty` installs the libraries (recfx depends on none of them) and runs the
comparison as a test; `tests/thirdparty/make_table.py` writes this page from the same comparison.

{captured} of {total} models are captured and optimised. All their answers are within 1e-6 of the eager model's largest answer.
"""

NOT_CAPTURED = """\

## Not captured

Capture refuses these with a `CaptureError` that says what is wrong; it never returns a model that answers differently.

| model | why | what to do |
|---|---|---|
"""

REMARKS = """\

## Captured, with a remark

| model | remark |
|---|---|
"""


def page(outcomes: Mapping[str, Outcome]) -> str:
    """The page as Markdown.

    Args:
        outcomes: What happened to each model of the corpus, by label.
    """
    cases = all_cases()
    captured = [case for case in cases if outcomes[case.label].captured]
    libraries = list(dict.fromkeys(case.library for case in cases))
    text = INTRODUCTION.format(
        libraries=", ".join(f"{name} {importlib.metadata.version(name)}" for name in libraries),
        batches=", ".join(map(str, COMPARED_BATCHES)),
        captured=len(captured),
        total=len(cases),
    )
    text += "\n| library | models | captured | which |\n|---|---|---|---|\n"
    for library in libraries:
        own = [case.name for case in captured if case.library == library]
        total = sum(case.library == library for case in cases)
        text += f"| {library} | {total} | {len(own)} | {', '.join(own)} |\n"
    text += NOT_CAPTURED
    for case in cases:
        if not outcomes[case.label].captured:
            failure = EXPECTED_FAILURES[case.label]
            text += f"| {case.label} | {failure.reason} | {failure.mend} |\n"
    return text + REMARKS + "".join(row for case in captured for row in _remarks(case, outcomes[case.label]))


def _remarks(case: ModelCase, outcome: Outcome) -> list[str]:
    """Batches that the library's own model refuses, and what capture had to say besides."""
    rows = [
        f"| {case.label} | the library's own model refuses batch {batch} ({error}) |\n"
        for batch, error in outcome.refused.items()
    ]
    return rows + [f"| {case.label} | {note} |\n" for note in outcome.notices if "itself refuses" not in note]


def main() -> None:
    """Runs the comparison on every model and writes the page.

    Raises:
        SystemExit: A library is missing, or a model is captured, or refused, that the test does not expect to be.
    """
    missing = sorted({case.requires for case in all_cases() if not case.installed})
    if missing:
        raise SystemExit(f"not installed: {', '.join(missing)}; run make thirdparty first")
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outcomes = {case.label: examine(case) for case in track(all_cases(), "comparing models")}
    for label, outcome in outcomes.items():
        if outcome.captured == (label in EXPECTED_FAILURES):
            raise SystemExit(f"{label} is not as expected.py says: {outcome.error or 'it is captured'}")
    PAGE.write_text(page(outcomes))


if __name__ == "__main__":
    main()
