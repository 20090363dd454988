"""Models whose score is a dot product, over codes, through the whole compilation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from item_models import ITEMS, Scores
from native_kit import needs_kernels

import recfx
from recfx.ops.hamming import code_dot
from recfx.passes import EXACT_PIPELINE, NATIVE_PIPELINE
from recfx.zoo import LightGCN, SASRec, TwoTower

#: After the folds, which compute tables that depend only on parameters, and before the fusion of lookups.
BEFORE = "fuse-dot-interaction,"


def with_codes(text: str) -> str:
    return NATIVE_PIPELINE.replace(BEFORE, f"{text},{BEFORE}")


def scores(fast: recfx.CompiledModel) -> int:
    return sum(n.target is code_dot for n in fast.program.graph.nodes)


MODELS = {
    "LightGCN": lambda: LightGCN.small(dim=24),
    "SASRec": lambda: SASRec.small(dim=24),
}


@needs_kernels
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("text", "least"),
    [("quantize-embeddings", 0.999), ("quantize-embeddings{bits=4}", 0.98), ("binarize-embeddings", 0.7)],
)
def test_a_model_of_the_zoo(name: str, text: str, least: float) -> None:
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    inputs = model.example_inputs(64)
    fast = recfx.optimize(model, "native", example_inputs=inputs, pipeline=with_codes(text), measure=False)
    assert scores(fast) == 1
    assert fast.report.exactness == "approx"
    with torch.no_grad():
        for batch in (64, 1):
            cut = tuple(x[:batch] for x in inputs)
            want, got = model(*cut), fast(*cut)
            assert got.shape == want.shape
            if batch > 1:
                assert float(torch.corrcoef(torch.stack([want.flatten(), got.flatten()]))[0, 1]) > least


def test_lightgcn_keeps_no_floats_of_its_items() -> None:
    torch.manual_seed(0)
    model = LightGCN.small(dim=64).eval()
    inputs = model.example_inputs(8)
    fast = recfx.optimize(
        model, "eager", example_inputs=inputs, pipeline=f"{EXACT_PIPELINE},binarize-embeddings", measure=False
    )
    held = fast.program.state().values()
    assert sorted(t.numel() * t.element_size() for t in held) == [40 * 16, 30 * 64 * 4]


def test_a_tower_over_the_catalogue_is_packed() -> None:
    model: Any = TwoTower.small(tower=(8, 24)).eval()
    inputs = model.example_inputs(8)
    pipeline = f"{EXACT_PIPELINE},quantize-embeddings"
    fast = recfx.optimize(
        model, "eager", example_inputs=inputs, pipeline=pipeline, measure=False,
        constant_inputs={"item": torch.arange(1, 41)}, catalogue=True,
    )  # fmt: skip
    assert scores(fast) == 1
    want, got = model(*inputs), fast(*inputs)
    assert float((want - got).detach().abs().max()) < 0.02 * float(want.detach().abs().max())


def test_a_tower_without_a_catalogue_is_left_alone() -> None:
    model = TwoTower.small(tower=(8, 24)).eval()
    inputs = model.example_inputs(8)
    fast = recfx.optimize(
        model, "eager", example_inputs=inputs, pipeline=f"{EXACT_PIPELINE},quantize-embeddings", measure=False
    )
    assert scores(fast) == 0
    (record,) = (r for r in fast.report.passes if r.text == "quantize-embeddings")
    assert any("neither side looks up rows of a constant table" in miss.reason for miss in record.misses)


def test_candidates_that_never_change() -> None:
    model: Any = Scores()
    ids = torch.arange(ITEMS)
    fast = recfx.optimize(
        model, "eager", example_inputs={"item_ids": ids, "user": torch.tensor([1, 2, 3])}, measure=False,
        constant_inputs={"item_ids": ids}, pipeline=f"{EXACT_PIPELINE},quantize-embeddings",
    )  # fmt: skip
    assert scores(fast) == 0  # rows of four are no larger in floats
    (record,) = (r for r in fast.report.passes if r.text == "quantize-embeddings")
    assert any("16 bytes instead of 16" in miss.reason for miss in record.misses)
