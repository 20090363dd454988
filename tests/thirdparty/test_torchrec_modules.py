"""Every module of torchrec is captured with eager's outputs, or refused with a remedy; the page that lists them is
checked.

Slow, and needs packages from outside: `make thirdparty`.  Run as a script, this file writes the page.
"""

from __future__ import annotations

import importlib.metadata
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from corpus import enliven, generator
from examine import difference
from make_table import row
from records import Record, load, save
from rich.progress import track
from torch.utils import _pytree as pytree
from torchrec_modules import CASES, Bags, Case

import recfx
from recfx.driver.measure import do_no_harm

PAGE = Path(__file__).parents[2] / "docs" / "torchrec.md"
RECORDS = Path(__file__).parent / "torchrec_records.json"
BATCHES = (1, 2, 7, 64)
EXAMPLE = 6
EMPTY, USUAL, LONG = Bags(0, 0), Bags(0, 3), Bags(20, 40)

INTRODUCTION = """\
# TorchRec

The modules of torchrec {version} and how recfx runs them. A captured model is compared with the library's own in eager mode at batches
{batches}, with usual, empty and long bags, by a test that also checks this page (`make thirdparty`). The other columns are as in
[the table of models](thirdparty.md): the operators of the compiled model that torch runs, and its time over eager's, on one thread,
at one row and at {example} rows. "Eager kept" says that the module itself was faster and runs in the default mode. Modules that return
jagged tensors read rows that belong to no batch row, which torch looks up.

| module | left to torch | 1 row | {example} rows | |
|---|---|---|---|---|
"""

REMARKS = """
The batch of a KeyedJaggedTensor is its stride, or the number of columns of its inverse indices. Strides of each key and inverse
indices are carried when the example inputs have them. A compiled model takes inputs of the same form as the example inputs: a call with
weights, strides or inverse indices that the example lacked is an `InputError`, as is a stride that the lengths contradict,
offsets that do not start at 0, lengths that do not add up to the number of values, or a KeyedTensor whose `key_dim` is not 1.

Tables that torchrec's `quantize_embeddings` has quantised become recfx's row-wise tables with the same values. FBGEMM replaces ids that
are out of range by 0 and prints a warning; a compiled model refuses them. Pruned tables are refused, as are modules whose tables do not
lie in the memory of the CPU. ITEP modules (`ITEPEmbeddingBagCollection`) and sharded modules need a process group; serve the
EmbeddingBagCollection they wrap.
"""


def compiled(case: Case) -> tuple[torch.nn.Module, Any]:
    torch.manual_seed(0)
    model = case.make()
    model = model.eval() if "quantized" in case.name else enliven(model)
    usual = Bags(max(USUAL.low, case.least), USUAL.high)
    return model, recfx.optimize(model, example_inputs=case.inputs(EXAMPLE, generator(0), usual), measure=False)


def page() -> str:
    """The page as Markdown, from the cases."""
    text = INTRODUCTION.format(
        version=importlib.metadata.version("torchrec"), batches=", ".join(map(str, BATCHES)), example=EXAMPLE
    )
    records = load(RECORDS)
    for case in CASES:
        text += (
            f"| {case.name} | refused: {case.mend} | | | |\n" if case.refused else row(case.name, records[case.name])
        )
    return text + REMARKS


def measured() -> dict[str, Record]:
    """The default mode's measurements of each captured module."""
    found = {}
    for case in track([c for c in CASES if not c.refused], "measuring modules"):
        model, fast = compiled(case)
        report = do_no_harm(fast.parts, model).report
        found[case.name] = Record(
            captured=True,
            backend=next((name for name in report.backend if name != "eager"), "eager"),
            left=dict(Counter(name for name, _ in report.left_to_torch)),
            operators=report.lowered_operators,
            ratios={str(m.batch): round(m.ratio[0], 2) for m in report.measured},
            eager_kept=report.kept_eager,
        )
    return found


@pytest.mark.slow
@pytest.mark.parametrize("case", [c for c in CASES if not c.refused], ids=lambda c: c.name)
def test_answers_are_eagers(case: Case) -> None:
    pytest.importorskip("torchrec")
    model, fast = compiled(case)
    assert len(fast.report.left_to_torch) <= load(RECORDS)[case.name].left_count, fast.report.left_to_torch
    for sizes in (USUAL, LONG, EMPTY):
        if sizes.high < case.least or (sizes is LONG and "Position" in case.name):
            continue
        sizes = Bags(max(sizes.low, case.least), sizes.high)
        for batch in BATCHES:
            with torch.no_grad():
                want = pytree.tree_leaves(model(*case.inputs(batch, generator(batch), sizes)))
            got = pytree.tree_leaves(fast(*case.inputs(batch, generator(batch), sizes)))
            assert difference(*_without_empty(want, got)) <= 1e-5, (sizes, batch)


def _without_empty(want: list[Any], got: list[Any]) -> tuple[list[Any], list[Any]]:
    """Both without tensors that have no elements, whose shapes must be equal; a 0 is added, so that the result is not
    empty."""
    assert [getattr(x, "shape", None) for x in want] == [getattr(x, "shape", None) for x in got]
    kept = [i for i, x in enumerate(want) if not isinstance(x, torch.Tensor) or x.numel()]
    return [*(want[i] for i in kept), 0], [*(got[i] for i in kept), 0]


@pytest.mark.slow
@pytest.mark.parametrize("case", [c for c in CASES if c.refused], ids=lambda c: c.name)
def test_a_refusal_says_why(case: Case) -> None:
    pytest.importorskip("torchrec")
    with pytest.raises(recfx.CaptureError) as caught:
        compiled(case)
    assert case.refused in str(caught.value)


@pytest.mark.slow
def test_the_page_lists_the_cases() -> None:
    pytest.importorskip("torchrec")
    assert PAGE.read_text() == page(), "run tests/thirdparty/test_torchrec_modules.py"


if __name__ == "__main__":
    torch.set_num_threads(1)
    save(measured(), RECORDS)
    PAGE.write_text(page())
