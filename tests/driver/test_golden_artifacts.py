"""Models that former versions saved can be loaded and give their original outputs. `golden/format-N` holds a saved
model of format N, and inputs with the outputs at the time of saving. Formats 1 and 2 have no checksum of their
manifest; all other checks of a folder apply to them.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from native_kit import needs_kernels
from safetensors.torch import load_file
from torch import Tensor, nn

import recfx
from recfx.driver import artifact
from recfx.driver.older_formats import UNSEALED

pytestmark = needs_kernels
GOLDEN = Path(__file__).parent / "golden"
FORMATS = (1, 2, 3, 4, 5)


class Ranker(nn.Module):
    """The saved model: a batch of one row has a plan of its own, since `squeeze` drops the batch of one row."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 4)
        self.bottom = nn.Linear(3, 4)
        self.top = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 1))

    def forward(self, dense: Tensor, ids: Tensor, features: dict[str, Tensor]) -> dict[str, Tensor]:
        x = torch.cat([self.bottom(dense), self.table(ids)], 1)
        return {"score": self.top(x).squeeze(), "sum": x.sum(1) + features["bias"]}


def test_every_format_that_is_read_has_a_golden_model() -> None:
    assert FORMATS == artifact.READ
    assert sorted(folder.name for folder in GOLDEN.iterdir()) == [f"format-{number}" for number in FORMATS]


def load(folder: Path) -> recfx.CompiledModel:
    """Loads a golden model; formats without a checksum of their manifest say so."""
    number = json.loads((folder / "manifest.json").read_text())["format"]
    if number in UNSEALED:
        with pytest.warns(UserWarning, match=f"of format {number}.*carries no checksum.*Save the loaded model again"):
            fast = recfx.load(folder)
        assert any("carries no checksum" in notice for notice in fast.report.notices)
        return fast
    return recfx.load(folder)


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("number", FORMATS)
def test_it_gives_the_answers_it_gave(number: int, batch: int) -> None:
    fast = load(GOLDEN / f"format-{number}" / "model")
    case = load_file(GOLDEN / f"format-{number}" / "cases.safetensors")
    found = fast(case[f"dense{batch}"], case[f"ids{batch}"], {"bias": case[f"bias{batch}"]})
    torch.testing.assert_close(
        found, {"score": case[f"score{batch}"], "sum": case[f"sum{batch}"]}, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("number", FORMATS)
def test_it_can_be_refreshed_and_saved_again(number: int, tmp_path: Path) -> None:
    fast = load(GOLDEN / f"format-{number}" / "model")
    model = Ranker().eval()
    inputs = torch.randn(4, 3), torch.randint(0, 20, (4,)), {"bias": torch.randn(4)}
    fast.refresh(model, example_inputs=inputs)
    fast.save(tmp_path / "model")
    with torch.no_grad():
        torch.testing.assert_close(recfx.load(tmp_path / "model")(*inputs), model(*inputs), rtol=1e-5, atol=1e-6)
