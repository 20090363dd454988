"""Models that the command line is given."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from models import TinyCtr, tiny_inputs

import recfx
from recfx.errors import RecfxError
from recfx.model_files import load_model

SCRIPT = """
import torch
from torch import nn

EXAMPLE = torch.randn(4, 3)

def pair():
    return nn.Linear(3, 2), (EXAMPLE,)

def arguments():
    return {"model": nn.Linear(3, 2), "example_inputs": EXAMPLE, "max_batch": 16}

def alone():
    return nn.Linear(3, 2)

def nothing():
    return None

def fails():
    raise ValueError("no weights")

value = 3
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    (tmp_path / "models.py").write_text(SCRIPT)
    return tmp_path / "models.py"


@pytest.mark.parametrize("name", ["pair", "arguments"])
def test_functions_of_a_script(script: Path, name: str) -> None:
    given = load_model(f"{script}:{name}")
    assert not given.model.training
    fast = recfx.optimize(given.model, **given.arguments, measure=False)
    torch.testing.assert_close(fast(torch.ones(2, 3)), given.model(torch.ones(2, 3)))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("alone", "example inputs are missing"),
        ("nothing", "expected a model and example inputs, got NoneType"),
        ("fails", "ValueError: no weights"),
        ("value", "defines no function value"),
        ("absent", "defines no function absent"),
    ],
)
def test_functions_that_give_no_model(script: Path, name: str, message: str) -> None:
    with pytest.raises(RecfxError, match=message) as caught:
        load_model(f"{script}:{name}")
    assert caught.value.hint


@pytest.mark.parametrize(
    "text", ["models.py", "models:make", "model.pt", "", "no-such-file.py:make", "no-such-file.pt2"]
)
def test_what_is_no_model(text: str) -> None:
    with pytest.raises(RecfxError) as caught:
        load_model(text)
    assert caught.value.hint


def test_exported_programs(tmp_path: Path) -> None:
    model = TinyCtr()
    batch = torch.export.Dim("batch", min=1, max=500)
    program = torch.export.export(model, tiny_inputs(4), dynamic_shapes=({0: batch}, {0: batch}))
    torch.export.save(program, tmp_path / "model.pt2")
    given = load_model(str(tmp_path / "model.pt2"))
    fast = recfx.optimize(given.model, **given.arguments, measure=False)
    for rows in (1, 9):
        inputs = tiny_inputs(rows)
        torch.testing.assert_close(fast(*inputs), model(*inputs), rtol=1e-4, atol=1e-5)
    (tmp_path / "bad.pt2").write_bytes(b"not an archive")
    with pytest.raises(RecfxError, match="not an exported program"):
        load_model(str(tmp_path / "bad.pt2"))
