"""The passes that write grouped lookups, on every model of the zoo."""

from __future__ import annotations

import pytest
import torch
from pass_cases import operators

from recfx.capture import capture
from recfx.ir import Exactness, verify_meta, verify_numeric
from recfx.passes import DEFAULT_PIPELINE, NATIVE_PIPELINE
from recfx.pipeline import Pipeline
from recfx.zoo import MODELS


@pytest.mark.parametrize("name", sorted(MODELS))
def test_models_of_the_zoo(name: str) -> None:
    torch.manual_seed(0)
    model = MODELS[name].small().eval()
    program = Pipeline(DEFAULT_PIPELINE).run(capture(model, model.example_inputs(6))).program
    result = Pipeline(NATIVE_PIPELINE).run(program).program
    verify_meta(result)
    verify_numeric(program, result, Exactness.REASSOC)
    if name != "sasrec":  # its two lookups have different rows
        assert operators(result)["aten.embedding"] == 0
        assert operators(result)["recfx.grouped_lookup"] > 0
    for batch in (1, 2, 7, 64):
        inputs = model.example_inputs(batch, seed=batch)
        with torch.no_grad():
            torch.testing.assert_close(result(*inputs), model(*inputs), rtol=1e-5, atol=1e-5)
