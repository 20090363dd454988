"""The whole compilation of every model of the zoo: capture with a free batch, passes, compiled model, equal outputs."""

from __future__ import annotations

import pytest
import torch

import recfx
from recfx.passes import EXACT_PIPELINE
from recfx.zoo import MODELS

BATCHES = (1, 2, 7, 64)

#: One model of each kind for the exact passes; the default passes run on all models, and the slow tests run both on all.
KINDS = ("deepfm", "dlrm", "lightgcn", "mmoe", "sasrec", "two-tower")


def trained(name: str) -> torch.nn.Module:
    """A small model whose every weight and statistic differs from its initial value, in eval mode."""
    torch.manual_seed(0)
    model: torch.nn.Module = MODELS[name].small()  # type: ignore[attr-defined]
    model.train()
    inputs = model.example_inputs(32)  # type: ignore[operator]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    for _ in range(3):
        optimizer.zero_grad()
        (model(*inputs) - 1).square().mean().backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize(
    "name", [name if name in KINDS else pytest.param(name, marks=pytest.mark.slow) for name in sorted(MODELS)]
)
def test_exact_passes_keep_every_bit(name: str) -> None:
    model = trained(name)
    fast = recfx.optimize(
        model, example_inputs=model.example_inputs(6), pipeline=EXACT_PIPELINE, verify="numeric", measure=False
    )
    assert fast.report.exactness == "exact"
    idle = [notice for notice in fast.report.notices if " changed nothing: " in notice]
    assert len(idle) in (0, len(fast.report.passes))
    assert all("which may be faster, was left out" in notice for notice in fast.report.notices if notice not in idle)
    assert fast.program.signature.dims["batch"] == (1, 65536)
    for batch in BATCHES:
        inputs = model.example_inputs(batch, zipf=1.2, seed=batch)
        with torch.no_grad():
            assert torch.equal(fast(*inputs), model(*inputs)), batch


@pytest.mark.parametrize("name", sorted(MODELS))
def test_default_passes_stay_within_rounding_and_survive_saving(name: str, tmp_path: pytest.TempPathFactory) -> None:
    model = trained(name)
    fast = recfx.optimize(model, example_inputs=model.example_inputs(6), verify="numeric", measure=False)
    fast.save(f"{tmp_path}/model")
    loaded = recfx.load(f"{tmp_path}/model")
    for batch in BATCHES:
        inputs = model.example_inputs(batch, seed=batch + 100)
        got = fast(*inputs)
        with torch.no_grad():
            torch.testing.assert_close(got, model(*inputs), rtol=1e-5, atol=1e-5)
        assert torch.equal(loaded(*inputs), got)
