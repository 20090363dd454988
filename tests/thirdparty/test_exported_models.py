"""Models of other libraries as ONNX files, compared with their programs. Slow, and needs the libraries: `make thirdparty`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from corpus import COMPARED_BATCHES, EXAMPLE_BATCH, all_cases, generator
from test_export import require_same

import recfx
from recfx.errors import RecfxError

CASES = {case.label: case for case in all_cases()}

#: Models of each library with different operators: bags, sequences, gates, attention, convolutions, recurrent layers, multi-task outputs.
LABELS = (
    *(
        "deepctr-torch/WDL",
        "deepctr-torch/DeepFM",
        "deepctr-torch/xDeepFM",
        "deepctr-torch/AutoInt",
        "deepctr-torch/PLE",
    ),
    *(
        "torch-rechub/DCNv2-mixture",
        "torch-rechub/EDCN",
        "torch-rechub/GRU4Rec",
        "torch-rechub/STAMP",
        "torch-rechub/AFM",
    ),
    *("pytorch-widedeep/BasicRNN", "pytorch-widedeep/TabResnet", "pytorch-widedeep/SelfAttentionMLP"),
    *(
        "recbole/DeepFM",
        "recbole/NARM",
        "recbole/SASRec",
        "recbole/ConvNCF",
        "recbole/FFM",
        "recbole/Caser",
        "recbole/SINE",
    ),
)

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("label", LABELS)
def test_a_model_of_another_library(label: str, tmp_path: Path) -> None:
    case = CASES[label]
    if not case.installed:
        pytest.skip(f"{case.requires} is not installed: make thirdparty")
    built = case.build()
    args, kwargs = built.inputs(EXAMPLE_BATCH, generator(0))
    fast = recfx.optimize(built.model, example_inputs=args, example_kwargs=kwargs, measure=False)
    recfx.export_onnx(fast, tmp_path / "model.onnx")
    compared = 0
    for batch in COMPARED_BATCHES:
        args, kwargs = built.inputs(batch, generator(batch))
        try:
            leaves = fast.program.signature.flatten(args, kwargs)
            fast.program.signature.check(leaves)
        except RecfxError:
            continue  # this model refuses the size, or runs one row by another program
        with torch.no_grad():
            require_same(fast, tmp_path / "model.onnx", args, kwargs)
        compared += 1
    assert compared >= 3
